"""What files of mmsegmentation and torchvision are recognised as, and where their tensors go.

Whether the functions are equal is shown against the packages themselves, in `test_peers`.
"""

from collections import Counter
from pathlib import Path

import pytest
import torch

from contextbench.config.files import ConfigError
from contextbench.interop import mmsegmentation
from contextbench.interop.facts import Facts
from contextbench.interop.files import ImportedError, read_checkpoint
from contextbench.interop.layouts import UNTRAINED
from contextbench.interop.literals import UNREADABLE, LiteralsError, read_assignments
from tests.interop import frozen
from tests.interop.peers import opened, recognised

OPTIONS = {
    "fcn": {"convolutions": 2, "concat_input": True},
    "ppm": {"bins": [1, 2, 3, 6], "pool_width": 8},
    "aspp": {"dilations": [12, 24, 36], "fuse_kernel": 3},
    "encnet": {"codewords": 6, "release": "authors", "se_loss": True, "lateral": False},
    "danet": {"key_channels": 3},
    "ccnet": {"key_channels": 1, "recurrence": 2, "release": "paper"},
    "isa": {"key_channels": 4, "down_factor": 8},
    "ocr": {"key_channels": 4, "transforms": 2},
    "non_local": {
        "key_channels": 4,
        "pairwise": "embedded_gaussian",
        "scaled": True,
        "concat_input": True,
    },
    "dnlnet": {"key_channels": 4, "scaled": True, "temperature": 0.05, "concat_input": True},
    "gcnet": {"bottleneck": 2, "concat_input": True},
    "emanet": {
        "inner_channels": 6,
        "bases": 5,
        "stages": 3,
        "momentum": 0.9,
        "concat_input": True,
    },
    "deeplabv3plus": {
        "dilations": [12, 24, 36],
        "low_channels": 3,
        "separable": True,
        "fuse_kernel": 3,
    },
    "upernet": {"bins": [1, 2, 3, 6]},
}

QUICK = ("aspp", "isa", "ocr")  # whose tensors need more than another name


def sums(tensors: dict[str, torch.Tensor]) -> Counter[float]:
    """Each tensor by its absolute sum: no change of order or sign alters it."""
    return Counter(
        round(float(each.double().abs().sum()), 6)
        for name, each in tensors.items()
        if not name.endswith("num_batches_tracked")
    )


@pytest.mark.parametrize(
    "head",
    [
        head if head in QUICK else pytest.param(head, marks=pytest.mark.slow)
        for head in frozen.HEADS
    ],
)
def test_every_tensor_of_the_file_is_in_the_model_once(head: str, tmp_path: Path) -> None:
    model, found = opened(frozen.saved(tmp_path / "model.pth", head), "mmseg")
    assert found.head == head
    assert {"width": 8, "aux_width": 4, **OPTIONS[head]} == found.options
    assert (found.backbone.name, found.backbone.stem) == ("resnet18", "deep")
    assert (found.backbone.output_stride, found.backbone.basic_dilation) == (8, "first")
    theirs = sums(frozen.tensors_of(frozen.shapes_of(head)))
    # Ours may have biases in front of batch norms, which are 0 then.
    ours = sums(model.state_dict())
    del ours[0.0]
    # Of two groups of attention, the bias of the values is part of the mean behind.
    folded = 2 if head == "isa" else 0
    assert ((ours - theirs).total(), (theirs - ours).total()) == (folded, 2 * folded)


def test_a_basic_stem_and_no_auxiliary_head(tmp_path: Path) -> None:
    path = frozen.saved(tmp_path / "model.pth", deep=False)
    content = torch.load(path, weights_only=True)
    content["meta"]["cfg"] = content["meta"]["cfg"].replace("ResNetV1c", "ResNet")
    state = content["state_dict"]
    content["state_dict"] = {k: v for k, v in state.items() if not k.startswith("auxiliary_head")}
    torch.save(content, path)
    found = recognised(path)
    assert found.backbone.stem == "basic"
    assert found.notes == [UNTRAINED]


def changed(path: Path, before: str, after: str, head: str = "ppm") -> Path:
    """The file with another configuration."""
    text = frozen.HEADS[head][1]
    assert before in text
    return frozen.saved(path, head, cfg=text.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("style='pytorch'", "style='caffe'", "style is caffe: only pytorch"),
        ("std=[58.395,", "std=[0,", "std is"),
        ("type='SyncBN'", "type='GN'", "norm_cfg.type is GN"),
        ("type='ResNetV1c'", "type='ResNeSt'", "backbone ResNeSt"),
        ("type='PSPHead'", "type='PSAHead'", "PSAHead has no counterpart here"),
        ("type='PSPHead'", "type='DAHead'", "has a DAHead, but"),
        ("type='PSPHead'", "type='PSPHead', sharpness=3", "decode_head has sharpness"),
        ("in_index=3", "in_index=2", "in_index is 2: only 3 or -1"),
        ("strides=(1, 2, 1, 1)", "strides=(1, 1, 1, 1)", "output strides 8, 16, 32 are known"),
        ("dilations=(1, 1, 2, 4)", "dilations=(1, 1, 2, 4), multi_grid=(1, 2)", "multi_grid"),
        ("type='PSPHead'", "act_cfg=dict(type='GELU'), type='PSPHead'", "activation GELU"),
        (f"num_classes={frozen.K},", "num_classes=2,", "13 outputs for 2 classes"),
    ],
)
def test_what_no_model_here_computes_is_refused_by_name(
    before: str, after: str, message: str, tmp_path: Path
) -> None:
    file = read_checkpoint(changed(tmp_path / "model.pth", before, after))
    with pytest.raises(ImportedError, match=message.replace("(", r"\(")):
        mmsegmentation.recognise(file, Facts())


def test_images_of_other_statistics_are_what_the_network_takes(tmp_path: Path) -> None:
    """BGR less the mean of RGB, as a configuration says it, whether or not that was meant."""
    path = changed(tmp_path / "model.pth", "bgr_to_rgb=True", "bgr_to_rgb=False")
    assert recognised(frozen.saved(tmp_path / "rgb.pth")).backbone.inputs is None
    model, found = opened(path, "mmseg")
    assert found.backbone.inputs is not None
    assert found.backbone.inputs.order == "bgr"
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (
        (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))  # fmt: skip
    raw = torch.rand(1, 3, 4, 5) * 255
    expected = (raw.flip(1) - mean) / std
    torch.testing.assert_close(model.backbone.prepared((raw - mean) / std), expected)


def test_what_a_configuration_says_of_resizing_and_dilation(tmp_path: Path) -> None:
    text = frozen.HEADS["ppm"][1].replace("align_corners=False", "align_corners=True")
    text = text.replace("contract_dilation=True", "contract_dilation=False")
    model, found = opened(frozen.saved(tmp_path / "model.pth", "ppm", cfg=text), "mmseg")
    assert found.align_corners
    assert model.align_corners
    assert model.head.context.align_corners
    assert found.backbone.entry_dilation == "own"
    assert model.backbone.layer3[0].conv1.dilation == (2, 2)


def without_config(path: Path, head: str) -> Path:
    torch.save(frozen.tensors_of(frozen.shapes_of(head)), path)
    return path


def test_facts_that_no_tensor_shows_are_asked_for_all_at_once(tmp_path: Path) -> None:
    path = without_config(tmp_path / "bare.pth", "ppm")
    with pytest.raises(ConfigError) as caught:
        recognised(path)
    asked = ("output_stride=8", "bins=1,2,3,6", "align_corners=false", "inputs=rgb",
             "mean=123.675,116.28,103.53", "std=58.395,57.12,57.375")  # fmt: skip
    for fact in asked:
        assert f"--fact {fact}" in str(caught.value)
    usual = Facts({"bins": "1,2,4,8"}, usual=True)
    found = recognised(path, facts=usual)
    assert found.options["bins"] == [1, 2, 4, 8]
    assert usual.stated == {"bins": (1, 2, 4, 8)}
    assert usual.assumed["output_stride"] == 8


@pytest.mark.parametrize(
    ("fact", "value", "message"),
    [
        ("output_stride", "16", "the file itself says 8"),
        ("bins", "wide", "expected something like 1,2,3,6"),
        ("stride", "8", "nothing depends on it"),
    ],
)
def test_facts_that_cannot_be(fact: str, value: str, message: str, tmp_path: Path) -> None:
    path = frozen.saved(tmp_path / "model.pth")
    with pytest.raises(ConfigError, match=message):
        recognised(path, facts=Facts({fact: value}))


def test_leaky_relu_is_the_authors_form_of_ccnet(tmp_path: Path) -> None:
    leaky = "act_cfg=dict(type='LeakyReLU', negative_slope=0.01), type='CCHead'"
    path = changed(tmp_path / "model.pth", "type='CCHead'", leaky, "ccnet")
    assert recognised(path).options["release"] == "authors"


def test_names_of_parallel_training(tmp_path: Path) -> None:
    path = tmp_path / "parallel.pth"
    state = frozen.tensors_of(frozen.shapes_of("ppm"))
    torch.save({"state_dict": {f"module.{name}": each for name, each in state.items()}}, path)
    assert recognised(path, facts=Facts(usual=True)).head == "ppm"


# --- configurations are read, not run


def test_configurations_are_literals_and_names_of_them() -> None:
    text = "a = 2\nb = dict(x=a, y=[-1, (a, None)], z=dict(w='t'))\nc = {'k': b}\n"
    b = {"x": 2, "y": [-1, (2, None)], "z": {"w": "t"}}
    assert read_assignments(text) == {"a": 2, "b": b, "c": {"k": b}}


def test_nothing_of_a_configuration_is_run(tmp_path: Path) -> None:
    target = tmp_path / "made"
    text = (
        f"import os\na = open({str(target)!r}, 'w')\nb = dict(x=__import__('os'), y=1)\nc = 1 + 1\n"
    )
    values = read_assignments(text)
    assert not target.exists()
    assert values["b"] == {"x": UNREADABLE, "y": 1}
    assert values["a"] is values["c"] is UNREADABLE


@pytest.mark.parametrize("text", ["a = (", "a\0b", "a = " + "(" * 5000, "a = " + " " * 2**20])
def test_texts_that_are_no_configuration(text: str) -> None:
    with pytest.raises(LiteralsError):
        read_assignments(text)


def test_a_configuration_that_is_not_readable_is_said(tmp_path: Path) -> None:
    file = read_checkpoint(frozen.saved(tmp_path / "model.pth", cfg="model = dict("))
    assert file.config is None
    assert "not readable" in file.notes[0]
