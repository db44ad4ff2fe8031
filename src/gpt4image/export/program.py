"""Export as a program of `torch.export`, with a free batch size and without traces of the machine."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from gpt4image.core.errors import ExportError, first_line
from gpt4image.export.parity import Parity, compare_logits

NOTES = ("stack_trace", "source_fn_stack", "from_node")  # name the files of this machine


def export_program(model: nn.Module, path: Path, sample: Tensor) -> Parity:
    """Write a program and run it as read back on images [N, 3, H, W].

    Raises:
        ExportError: torch cannot export the model.
    """
    batch = ({0: torch.export.Dim("batch", min=1)},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: what it fixes wrongly, the comparison finds
            program = torch.export.export(model, (sample[:2],), dynamic_shapes=batch)
            for module in program.graph_module.modules():
                for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                    for note in NOTES:
                        node.meta.pop(note, None)
            torch.export.save(program, path)
            return compare_logits("torch.export", model, torch.export.load(path).module(), sample)
    except Exception as error:  # each model fails in its own way, deep inside torch
        raise ExportError(f"The model cannot be exported by torch.export ({first_line(error)}).") from None
