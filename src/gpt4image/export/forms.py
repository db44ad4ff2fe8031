"""Exported forms: ONNX and programs of `torch.export`, with any batch size and without paths of this machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt4image.core.errors import ExportError, first_line
from gpt4image.export.measure import Parity, compare_logits

NOTES = ("doc_string", "metadata_props")  # fields of an ONNX graph into which torch writes stack traces
NODE_NOTES = ("stack_trace", "source_fn_stack", "from_node")  # such fields of a program


def export_program(model: nn.Module, path: Path, sample: Tensor) -> Parity:
    """Write a program, read it back and run it on images [N, 3, H, W].

    Raises:
        ExportError: torch cannot export the model.
    """
    batch = ({0: torch.export.Dim("batch", min=1)},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of tracing: the comparison finds wrong constants
            program = torch.export.export(model, (sample[:2],), dynamic_shapes=batch)
            for module in program.graph_module.modules():
                for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                    for note in NODE_NOTES:
                        node.meta.pop(note, None)
            torch.export.save(program, path)
            return compare_logits("torch.export", model, torch.export.load(path).module(), sample)
    except Exception as error:  # each model fails in its own way, deep inside torch
        raise ExportError(f"The model cannot be exported by torch.export ({first_line(error)}).") from None


def export_onnx(model: nn.Module, path: Path, sample: Tensor) -> Parity:
    """Write an ONNX graph and run it with ONNX Runtime on images [N, 3, H, W].

    Models that torch's graph exporter cannot decompose are exported by its older tracer.

    Raises:
        ExportError: neither can export the model.
    """
    batch = ({0: torch.export.Dim("batch", min=1)},)
    axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
    export = partial(
        torch.onnx.export, model, (sample[:2],), str(path), input_names=["images"], output_names=["logits"]
    )
    ways: tuple[Callable[[], object], ...] = (
        lambda: export(dynamic_shapes=batch, dynamo=True, external_data=False, verbose=False),
        lambda: export(dynamic_axes=axes, dynamo=False),
    )
    for write in ways:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of tracing: the comparison finds wrong constants
                write()
            remove_notes(path)
            return compare_logits("ONNX", model, graph_runner(path), sample)
        except Exception as error:  # each model fails in its own way, deep inside torch or ONNX Runtime
            failure = first_line(error)
    raise ExportError(f"The model cannot be exported to ONNX ({failure}).")


def graph_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Return a function that runs an ONNX graph on images [B, 3, H, W] and returns logits [B, C]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def remove_notes(path: Path) -> None:
    """Remove the exporter's notes from a graph, because they name files of this machine."""
    import onnx

    graph = onnx.load(path)
    clear_notes(graph)
    onnx.save(graph, path)


def clear_notes(message: Any) -> None:  # noqa: ANN401 - a protobuf message, whose library belongs to an extra
    """Clear the notes of a message and of all messages in it."""
    for field, value in message.ListFields():
        if field.name in NOTES:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                clear_notes(part)
