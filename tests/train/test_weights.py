"""Weights files of other code: containers, prefixes, averages, counters, and what does not fit."""

from __future__ import annotations

import argparse
import gzip
import io
import re
import zipfile
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file

from gpt4image.core.errors import ConfigError
from gpt4image.train.weights import load_weights

CLASSES = 3


def backbone(classes=CLASSES):
    return timm.create_model("test_resnet", num_classes=classes)


@pytest.fixture(scope="module")
def trained():
    """State of a model whose weights differ from those of a new one."""
    torch.manual_seed(5)
    return {name: tensor.clone() for name, tensor in backbone(7).state_dict().items()}


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def damaged(state):
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def loaded(content, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    model = backbone()
    load_weights(model, path)
    return model.state_dict()


PLACES = {
    "plain": lambda s: s,
    "module.": lambda s: prefixed(s, "module."),
    "backbone.": lambda s: prefixed(s, "backbone."),
    "compiled parallel": lambda s: prefixed(s, "_orig_mod.module."),
    "compiled inside": lambda s: {name.replace("layer1.", "layer1._orig_mod."): w for name, w in s.items()},
    "Lightning": lambda s: {"state_dict": prefixed(s, "model."), "epoch": 3, "optimizer_states": [{"state": {}}]},
    "timm": lambda s: {"state_dict": damaged(s), "state_dict_ema": s, "args": argparse.Namespace(lr=0.1)},
    "student and teacher": lambda s: {
        "student": prefixed(damaged(s), "module.backbone."),
        "teacher": prefixed(s, "backbone."),
    },
    "one module for both": lambda s: prefixed(damaged(s), "student.backbone.") | prefixed(s, "teacher.backbone."),
    "fully sharded": lambda s: {
        "_fsdp_wrapped_module." + name.replace("layer1.", "layer1._fsdp_wrapped_module."): w for name, w in s.items()
    },
    "checkpointed activations": lambda s: {
        name.replace("layer1.0.", "layer1.0._checkpoint_wrapped_module."): w for name, w in s.items()
    },
    "list of one": lambda s: {"model": [s], "args": None},
    "average of weights": lambda s: {"n_averaged": torch.tensor(8), **prefixed(s, "module.")},
    "momentum encoder": lambda s: {"model": prefixed(s, "encoder_q."), "optimizer": {"state": {0: {"step": 1}}}},
    "nested": lambda s: {"checkpoint": {"net": {"trunk": s}}},
    "with operation counts": lambda s: s | {"total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1)},
    "without step counts": lambda s: {name: w for name, w in s.items() if not name.endswith("num_batches_tracked")},
    "another classifier": lambda s: {name.replace("fc.", "fc.1."): w for name, w in s.items()},
    "not a classifier": lambda s: {name: w for name, w in s.items() if not name.startswith("fc.")},
}


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_found_wherever_other_code_puts_them(place, trained, tmp_path):
    state = loaded(PLACES[place](trained), tmp_path)
    for name, tensor in trained.items():
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked"):
            assert torch.equal(state[name], tensor), name
    assert state["fc.weight"].shape[0] == CLASSES


def test_prefix_and_modules_left_out_are_named(trained, tmp_path, capsys):
    projector = {"model.projector.weight": torch.zeros(2, 2)}
    loaded({"state_dict": prefixed(trained, "model.") | projector}, tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert "under state_dict.model; left out: projector" in said
    loaded(trained, tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"bn1.bias": None}, "'bn1.bias' is missing"),
        ({"conv1.0.weight": torch.zeros(9, 3, 3, 3)}, r"'conv1.0.weight' has the shape \[9, 3, 3, 3\] instead of \["),
        ({"layer1.1.conv1.weight": torch.zeros(1)}, "'layer1.1.conv1.weight' is not part of the backbone"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_first_tensor_that_does_not_fit_is_named(changed, reason, prefix, trained, tmp_path):
    content = {name: tensor for name, tensor in {**trained, **changed}.items() if tensor is not None}
    with pytest.raises(ConfigError, match=r"weights\.pth does not contain .*\d+ of \d+ tensors fit, and " + reason):
        loaded(prefixed(content, prefix), tmp_path)


def test_deeper_model_of_the_same_family_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"layer\d.* is not part of the backbone"):
        path = tmp_path / "resnet34.safetensors"
        save_file(timm.create_model("resnet34").state_dict(), path)
        load_weights(timm.create_model("resnet18", num_classes=CLASSES), path)


def test_both_classifiers_of_a_distilled_model_may_have_another_size(tmp_path):
    options = {"img_size": 32, "depth": 1}
    theirs, mine = (timm.create_model("deit_tiny_distilled_patch16_224", num_classes=c, **options) for c in (7, 3))
    save_file(theirs.state_dict(), tmp_path / "deit.safetensors")
    load_weights(mine, tmp_path / "deit.safetensors")
    assert torch.equal(mine.dist_token, theirs.dist_token)


def vit(size=32, **options):
    torch.manual_seed(size)
    return timm.create_model("test_vit", img_size=size, num_classes=CLASSES, **options)


SELF_SUPERVISED = {
    # Caron et al., DINO: full checkpoints hold student and teacher with their heads
    "DINO": lambda s: {
        "student": prefixed(damaged(s), "module.backbone."),
        "teacher": prefixed(s, "backbone.") | {"backbone.head.mlp.0.weight": torch.zeros(4, 4)},
        "args": argparse.Namespace(arch="vit_tiny"),
        "epoch": 100,
    },
    # He et al., MAE: pre-training keeps the decoder beside the encoder
    "MAE": lambda s: {
        "model": s
        | {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 17, 8)}
        | {"decoder_embed.weight": torch.zeros(8, 64), "decoder_blocks.0.norm1.weight": torch.zeros(8)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    },
    # Oquab et al., DINOv2
    "DINOv2": lambda s: s | {"mask_token": torch.zeros(1, 64)},
    "DINOv2 in chunks": lambda s: {
        "teacher": {
            "backbone." + re.sub(r"^blocks\.(\d+)", lambda block: f"blocks.{int(block[1]) // 3}.{block[1]}", name): w
            for name, w in s.items()
        }
    },
    # Lightly's training checkpoints
    "LightlyTrain": lambda s: {
        "state_dict": prefixed(damaged(s), "student_embedding_model.wrapped_model._model.")
        | prefixed(s, "teacher_embedding_model.wrapped_model._model.")
        | {"teacher_projection_head.layers.0.weight": torch.zeros(4, 4)},
        "pytorch-lightning_version": "2.5.0",
    },
}


@pytest.mark.parametrize("layout", SELF_SUPERVISED)
@pytest.mark.parametrize("size", [32, 48])
def test_self_supervised_checkpoints_load_at_any_image_size(layout, size, tmp_path, capsys):
    theirs = {name: w for name, w in vit().state_dict().items() if not name.startswith("head.")}
    torch.save(SELF_SUPERVISED[layout](theirs), tmp_path / "weights.pth")
    mine = vit(size)
    load_weights(mine, tmp_path / "weights.pth")
    state = mine.state_dict()
    for name, tensor in theirs.items():
        if name != "pos_embed" or size == 32:
            assert torch.equal(state[name], tensor), name
    said = " ".join(capsys.readouterr().err.split())
    assert ("converted, such as pos_embed" in said) == (size != 32)


def test_what_does_not_fit_is_told_after_the_conversion(tmp_path):
    """MAE's fine-tuning normalises the pooled feature; the position embedding, of another size, is no fault."""
    names = {"norm.weight": "fc_norm.weight", "norm.bias": "fc_norm.bias"}
    save_file({names.get(name, name): w for name, w in vit(48).state_dict().items()}, tmp_path / "mae.safetensors")
    with pytest.raises(ConfigError, match=r"tensors fit, and 'norm\.weight' is missing"):
        load_weights(vit(32), tmp_path / "mae.safetensors")


def test_position_embedding_of_another_image_size_is_interpolated_as_timm_does(tmp_path):
    theirs, mine, expected = vit(32), vit(48), vit(48)
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    load_weights(mine, tmp_path / "vit.safetensors")
    timm.models.load_checkpoint(
        expected,
        str(tmp_path / "vit.safetensors"),
        filter_fn=timm.models.vision_transformer.checkpoint_filter_fn,
    )
    assert torch.equal(mine.pos_embed, expected.pos_embed)


def test_register_tokens_of_dinov2_are_converted(tmp_path):
    mine = vit(reg_tokens=2, no_embed_class=True)
    theirs = {name: w for name, w in vit().state_dict().items() if not name.startswith("head.")}
    tokens = {"register_tokens": torch.ones(1, 2, theirs["cls_token"].shape[2]), "mask_token": torch.zeros(1, 64)}
    torch.save(theirs | tokens, tmp_path / "dinov2.pth")
    load_weights(mine, tmp_path / "dinov2.pth")
    assert torch.equal(mine.reg_token, tokens["register_tokens"])
    assert torch.equal(mine.cls_token, theirs["cls_token"] + theirs["pos_embed"][:, :1])


def test_object_that_could_run_code_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"could run code.*torch\.save\(model\.state_dict\(\), FILE\)"):
        loaded({"model": SimpleNamespace(weight=torch.zeros(1))}, tmp_path)


def test_kind_of_file_is_told_by_what_it_holds(trained, tmp_path):
    save_file(trained, tmp_path / "a.bin")
    torch.save(trained, tmp_path / "b.safetensors")
    for path in tmp_path.iterdir():
        model = backbone()
        load_weights(model, path)
        assert torch.equal(model.state_dict()["conv1.0.weight"], trained["conv1.0.weight"])


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.pt", zipped("a/data.pkl", "a/constants.pkl"), "is a TorchScript program, not a weights file"),
        ("a.pt2", zipped("models/model.json"), "is a ZIP archive, not"),
        ("a.npz", zipped("conv1.weight.npy"), "is an archive of NumPy arrays, not"),
        ("a.onnx", b"\x08\x07", "is an ONNX graph, not"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "is HDF5, as Keras writes it, not"),
        ("a.gguf", b"GGUF\3", "is GGUF, not"),
        ("a.pth.gz", gzip.compress(b"x", mtime=0), "is packed by gzip, not"),
        ("a.index.json", b'{"weight_map": {}}', "is JSON, not"),
        ("a.pth", b"", "is empty .0 bytes., not"),
    ],
)
def test_file_of_another_kind_is_named_with_the_remedy(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=rf"{said}.*torch\.save\(model\.state_dict\(\), FILE\)"):
        load_weights(backbone(), tmp_path / name)


@pytest.mark.parametrize("content", [{}, 5, None, {"epoch": 3, "optimizer": [1, "a"]}])
def test_file_without_tensors_says_so(content, tmp_path):
    with pytest.raises(ConfigError, match="contains no tensors"):
        loaded(content, tmp_path)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(trained, tmp_path, kind):
    content = {name: w.to(kind) if w.is_floating_point() else w for name, w in trained.items()}
    with pytest.raises(ConfigError, match=r"holds quantised weights \('conv1.0.weight' is"):
        loaded(content, tmp_path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_read(trained, tmp_path, kind):
    content = {name: w.to(kind) if w.is_floating_point() else w for name, w in trained.items()}
    found = loaded(content, tmp_path)["conv1.0.weight"]
    assert torch.allclose(found, trained["conv1.0.weight"], atol=0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_failed_are_refused(trained, tmp_path, value):
    content = {**trained, "layer1.0.conv1.weight": torch.full_like(trained["layer1.0.conv1.weight"], value)}
    with pytest.raises(ConfigError, match=r"not finite, first in 'layer1\.0\.conv1\.weight'"):
        loaded(content, tmp_path)


def test_file_that_holds_itself_is_read(trained, tmp_path):
    content = dict(trained)
    content["self"] = content
    assert torch.equal(loaded(content, tmp_path)["conv1.0.weight"], trained["conv1.0.weight"])


def test_folder_as_weights_file_asks_for_the_file_inside(tmp_path):
    with pytest.raises(ConfigError, match=r"name the weights file in it, such as best\.safetensors"):
        load_weights(backbone(), tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        load_weights(backbone(), tmp_path / "nothing.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_pointer_in_place_of_weights_is_said(tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ConfigError, match="is a Git LFS pointer: run git lfs pull"):
        load_weights(backbone(), path)
