"""Weights from elsewhere: files as other code bases write them, and what is wrong with a file."""

import argparse
import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from contextbench.config.files import ConfigError
from contextbench.config.protocols import Protocol
from contextbench.data import DataError
from contextbench.models.backbone import Backbone, build_backbone
from contextbench.models.build import check_weights
from contextbench.models.pretrained import WeightsError
from contextbench.runs import comparison
from contextbench.runs.plan import Wanted, plan_comparison
from contextbench.runs.run import run_cell
from contextbench.system.console import Reporter
from contextbench.training.execution import Execution
from tests import small

State = dict[str, Tensor]

# Our names of the stem's modules -> theirs, from the modules that these files define:
# torchvision/models/resnet.py; hszhao/semseg, model/resnet.py and (layer0) model/pspnet.py;
# open-mmlab/mmsegmentation, mmseg/models/backbones/resnet.py (ResNetV1c);
# zhanghang1989/PyTorch-Encoding, encoding/models/backbone/resnet.py;
# openseg-group/openseg.pytorch, lib/models/backbones/resnet/resnet_models.py.
BASIC = {
    "torchvision": {"conv1": "conv1", "bn1": "bn1"},
    "semseg's models": {"conv1": "layer0.0", "bn1": "layer0.1"},
    "openseg": {"conv1": "resinit.conv1", "bn1": "resinit.bn1"},
}
OURS = ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1")
DEEP = {
    name: dict(zip(OURS, theirs.split(), strict=True))
    for name, theirs in {
        "PyTorch-Encoding": "conv1.0 conv1.1 conv1.3 conv1.4 conv1.6 bn1",
        "semseg (": "conv1 bn1 conv2 bn2 conv3 bn3",
        "mmsegmentation": "stem.0 stem.1 stem.3 stem.4 stem.6 stem.7",
        "semseg's models": "layer0.0 layer0.1 layer0.3 layer0.4 layer0.6 layer0.7",
        "openseg": "resinit.conv1 resinit.bn1 resinit.conv2 resinit.bn2 resinit.conv3 resinit.bn3",
    }.items()
}
STEMS = [("basic", name) for name in BASIC] + [
    (stem, name) for stem in ("deep", "deep_wide") for name in DEEP
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def tiny(stem: Any = "basic", **options: Any) -> Backbone:
    """A ResNet-10 of width 8 whose batch norms have statistics, so that a swapped one shows."""
    backbone = build_backbone("resnet10", width=8, stem=stem, **options)
    for each in backbone.modules():
        if isinstance(each, nn.BatchNorm2d):
            for tensor in (each.weight.data, each.bias.data, each.running_mean, each.running_var):
                assert tensor is not None
                tensor.uniform_(0.2, 1.0)
    return backbone.eval()


def renamed(state: Mapping[str, Tensor], modules: Mapping[str, str]) -> State:
    def name(key: str) -> str:
        module, _, tensor = key.rpartition(".")
        return f"{modules.get(module, module)}.{tensor}"

    return {name(key): tensor for key, tensor in state.items()}


def below(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def load(content: Any, path: Path, stem: Any = "basic") -> Backbone:
    torch.save(content, path)
    return build_backbone("resnet10", width=8, stem=stem, weights=str(path)).eval()


def same(one: Backbone, other: Backbone) -> bool:
    images = torch.rand(1, 3, 48, 48)
    with torch.inference_mode():
        return all(torch.equal(a, b) for a, b in zip(one(images), other(images), strict=True))


@pytest.mark.parametrize(("stem", "naming"), STEMS)
def test_names_of_every_code_base_give_the_same_network(
    stem: str, naming: str, tmp_path: Path
) -> None:
    source = tiny(stem)
    state = renamed(source.state_dict(), (BASIC if stem == "basic" else DEEP)[naming])
    loaded = load(state, tmp_path / "weights.pth", stem)
    assert same(loaded, source)
    assert loaded.origin is not None
    assert loaded.origin.startswith(f"weights.pth: names of {naming}")


def wrapped() -> Iterator[tuple[str, Callable[[State], Any], str]]:
    """How a file holds the network, and where it is said to be.

    mmsegmentation and mmpretrain: `state_dict`, `backbone.`; semseg: `state_dict`, `module.`;
    torchvision's and timm's training: `model`; torchvision's segmenters: `backbone.`;
    segmentation-models-pytorch: `encoder.`; PyTorch-Encoding: `pretrained.`; and others by nature.
    """
    yield "bare", lambda state: state, ""
    yield (
        "mm",
        lambda state: {"meta": {"epoch": 3}, "state_dict": below("backbone.", state)},
        (" in 'state_dict' below 'backbone.'"),
    )
    yield (
        "semseg",
        lambda state: {"epoch": 3, "state_dict": below("module.", state)},
        (" in 'state_dict' below 'module.'"),
    )
    yield (
        "references",
        lambda state: {"optimizer": {"state": {0: {}}}, "model": state},
        (" in 'model'"),
    )
    yield "segmenter", lambda state: below("backbone.", state), " below 'backbone.'"
    yield "smp", lambda state: below("encoder.", state), " below 'encoder.'"
    yield (
        "encoding",
        lambda state: {"state_dict": below("pretrained.", state)},
        (" in 'state_dict' below 'pretrained.'"),
    )
    yield (
        "parallel",
        lambda state: {"model_state": below("module.backbone.", state)},
        (" in 'model_state' below 'module.backbone.'"),
    )
    yield (
        "nested",
        lambda state: {"net": {"student": below("_orig_mod.m.", state)}},
        (" in 'net.student' below '_orig_mod.m.'"),
    )


WRAPPED = list(wrapped())


@pytest.mark.parametrize(("wrap", "place"), [w[1:] for w in WRAPPED], ids=[w[0] for w in WRAPPED])
def test_wrappers_and_prefixes_are_found_and_named(
    wrap: Callable[[State], Any], place: str, tmp_path: Path
) -> None:
    source = tiny()
    loaded = load(wrap(source.state_dict()), tmp_path / "weights.pth")
    assert same(loaded, source)
    assert loaded.origin == f"weights.pth: names of torchvision{place}"


def test_of_several_state_dicts_the_averaged_one_is_last(tmp_path: Path) -> None:
    plain, average, other = tiny(), tiny(), tiny()
    content = {
        "ema_state_dict": below("module.", average.state_dict()),
        "teacher": other.state_dict(),
        "state_dict": plain.state_dict(),
    }
    loaded = load(content, tmp_path / "all.pth")
    assert same(loaded, plain)
    assert loaded.origin == (
        "all.pth: names of torchvision in 'state_dict'; not taken, though they fit too: those "
        "in 'teacher', in 'ema_state_dict' below 'module.'"
    )
    del content["state_dict"], content["teacher"]
    assert same(load(content, tmp_path / "average.pth"), average)


def test_classifiers_and_heads_are_left_out_and_named(tmp_path: Path) -> None:
    state = tiny().state_dict()
    two = {"weight": torch.zeros(10, 64), "bias": torch.zeros(10)}
    loaded = load({**state, **below("fc.", two)}, tmp_path / "classifier.pth")
    assert str(loaded.origin).endswith("; left out: fc (2)")
    heads = below("decode_head.conv_seg.", two) | below("auxiliary_head.conv_seg.", two)
    whole = {"state_dict": below("module.", below("backbone.", state) | heads)}
    loaded = load(whole, tmp_path / "whole.pth")
    assert str(loaded.origin).endswith("; left out: decode_head (2), auxiliary_head (2)")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_loaded_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tiny().state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    loaded = build_backbone("resnet10", width=8, weights=str(tmp_path / "half.safetensors"))
    assert str(loaded.origin).endswith(f"; stored as {str(dtype).removeprefix('torch.')}")
    for key, value in loaded.state_dict().items():
        assert value.dtype == (torch.int64 if key.endswith("tracked") else torch.float32)
        assert torch.equal(value, state[key].to(value.dtype)), key


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth.tar", "w.ckpt", "w.bin", "plain"])
def test_the_content_decides_on_the_format(name: str, tmp_path: Path) -> None:
    source = tiny()
    save_file(source.state_dict(), tmp_path / name)
    assert same(build_backbone("resnet10", width=8, weights=str(tmp_path / name)).eval(), source)


def test_old_files_load(tmp_path: Path) -> None:
    """Batch norms of before torch 0.4.1 have no counter; torch 1.6 changed the file format."""
    source = tiny()
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("batches_tracked")}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    loaded = build_backbone("resnet10", width=8, weights=str(tmp_path / "old.pth")).eval()
    assert same(loaded, source)


def refused(content: Any, path: Path, stem: Any = "basic") -> str:
    with pytest.raises(WeightsError) as error:
        load(content, path, stem)
    assert path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("naming", DEEP)
def test_another_stem_is_told_by_its_shapes(naming: str, tmp_path: Path) -> None:
    """Names do not tell: semseg's deep stem has a `conv1.weight` as the basic one has."""
    file, modules = tmp_path / "deep.pth", DEEP[naming]
    deep = renamed(tiny("deep").state_dict(), modules)
    message = refused(deep, file)
    assert "deep stem (three 3x3 convolutions, of 32, 32 and 64" in message
    assert message.endswith("set backbone.stem: deep")
    assert refused(deep, file, "deep_wide").endswith("set backbone.stem: deep")
    wide = renamed(tiny("deep_wide").state_dict(), modules)
    assert refused(wide, file, "deep").endswith("set backbone.stem: deep_wide")
    assert refused(wide, file).endswith("set backbone.stem: deep_wide")
    basic = tiny().state_dict()
    assert refused(basic, file, "deep").endswith(
        "The file has a basic stem (one 7x7 convolution): set backbone.stem: basic"
    )


def test_another_network_is_told_by_its_shapes(tmp_path: Path) -> None:
    deeper = build_backbone("resnet18").state_dict()
    message = refused(deeper, tmp_path / "deeper.pth")
    assert "stages of 2, 2, 2, 2 blocks of two convolutions: set backbone.name: resnet18" in message
    assert "unexpected keys: layer1.1.conv1.weight" in message
    assert "Its layer1 has 64 channels, not 8" in message
    averaging = {
        re.sub(r"downsample\.(\d)", lambda m: f"downsample.{int(m[1]) + 1}", key): value
        for key, value in tiny().state_dict().items()
    }
    assert "(ResNet-D), which no backbone here has" in refused(averaging, tmp_path / "d.pth")
    other = {"blocks.0.attn.qkv.weight": torch.zeros(3, 1), "cls_token": torch.zeros(1)}
    message = refused(other, tmp_path / "vit.pth")
    assert message.endswith("the file has no tensor of them, but blocks, cls_token")


def test_faults_of_the_network_are_named(tmp_path: Path) -> None:
    state = tiny().state_dict()
    gone = {k: v for k, v in state.items() if k != "layer2.0.conv1.weight"}
    message = refused(below("m.", gone), tmp_path / "gone.pth")
    assert "missing keys: m.layer2.0.conv1.weight" in message
    assert "unexpected keys" not in message
    # A module that nobody knows may stand between two stages.
    message = refused({**state, "attention.weight": torch.zeros(1)}, tmp_path / "more.pth")
    assert "unexpected keys: attention.weight" in message
    shape = {**state, "layer1.0.bn1.bias": torch.zeros(9)}
    assert "layer1.0.bn1.bias [9] for [8]" in refused(shape, tmp_path / "shape.pth")
    none = {key.replace("layer", "stage"): value for key, value in state.items()}
    missing = re.search(r"missing keys: (.*) and (\d+) more;", refused(none, tmp_path / "n.pth"))
    assert missing is not None
    expected = [k for k in state if k.startswith("layer") and not k.endswith("batches_tracked")]
    assert missing[1].split(", ") == expected[:8]
    assert int(missing[2]) == len(expected) - 8


def test_values_that_no_network_computes_with_are_refused(tmp_path: Path) -> None:
    state = tiny().state_dict()
    for value in (torch.nan, torch.inf):
        spoilt = {k: v.clone() for k, v in state.items()}
        spoilt["layer3.0.bn2.running_var"][3] = value
        message = refused(below("module.", spoilt), tmp_path / "spoilt.pth")
        assert message.endswith("not finite: module.layer3.0.bn2.running_var")
    whole = {**state, "fc.weight": torch.tensor([[torch.nan]])}
    load(whole, tmp_path / "head.pth")  # not used, so it harms nobody
    integers = {**state, "conv1.weight": state["conv1.weight"].to(torch.int8)}
    assert "numbers of torch.int8" in refused(integers, tmp_path / "integers.pth")


class _NotATensor:
    pass


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".pth", b"not a checkpoint", "cannot read"),
        (".pth", b"", "cannot read"),
        (".safetensors", b"not a checkpoint", "cannot read"),
        (".pth", {"epoch": 3}, "holds no state dict"),
        (".pth", {}, "holds no state dict"),
        (".pth", {"model": _NotATensor()}, r"Python objects \(.*_NotATensor\)"),
        (".pth", {"args": argparse.Namespace(lr=1)}, r"Python objects \(argparse\.Namespace\)"),
    ],
)
def test_unreadable_files(tmp_path: Path, suffix: str, content: Any, message: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=message) as error:
        build_backbone("resnet10", width=8, weights=str(path))
    assert "weights_only" not in str(error.value)
    assert "\n" not in str(error.value)


def test_names_in_a_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    state = {**tiny().state_dict(), "\x1b[2J" + 1000 * "x": torch.zeros(1)}
    message = refused(state, tmp_path / "escape.pth")
    assert "\x1b" not in message
    assert len(message) < 400


def protocol(weights: Path, **backbone: Any) -> Protocol:
    content = small.protocol().model_dump(mode="json")
    content["backbone"] |= {"weights": str(weights), **backbone}
    return Protocol.model_validate(content)


def test_a_file_is_looked_at_before_the_data(tmp_path: Path) -> None:
    """A protocol whose data are not there either: what is refused is the file."""
    wanted = protocol(tmp_path / "absent.pth")
    nowhere = wanted.dataset.model_copy(update={"name": "camvid", "options": {}})
    wanted = wanted.model_copy(update={"dataset": nowhere})
    plan = comparison.Plan(heads=[small.head()], seeds=[0])
    with pytest.raises(ConfigError, match=r"no such file: .*absent\.pth"):
        comparison.compare(wanted, plan, small.execution(tmp_path))
    torch.save(tiny().state_dict(), tmp_path / "absent.pth")
    with pytest.raises(DataError):
        comparison.compare(wanted, plan, small.execution(tmp_path))


def test_looking_at_weights_says_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(tiny("deep").state_dict(), path)
    expected = "weights.pth: names of PyTorch-Encoding (conv1.0)"
    assert check_weights(protocol(path, stem="deep")) == expected
    assert check_weights(small.protocol()) is None
    with pytest.raises(ConfigError, match=r"set backbone\.stem: deep"):
        check_weights(protocol(path))


def test_a_comparison_and_its_records_say_where_weights_came_from(tmp_path: Path) -> None:
    torch.save({"state_dict": below("backbone.", tiny().state_dict())}, tmp_path / "weights.pth")
    origin = "weights.pth: names of torchvision in 'state_dict' below 'backbone.'"
    wanted = protocol(tmp_path / "weights.pth")
    console = Console(file=io.StringIO(), width=200)
    place = torch.device("cpu")
    execution = Execution(out=tmp_path, device=place, reporter=Reporter(console))
    comparison.say_weights(wanted, execution)
    assert console.file.getvalue() == f"backbone weights: {origin}\n"  # type: ignore[attr-defined]
    setting = comparison.open_setting(wanted, None)
    cell = comparison.Cell(setting, small.head(), 0, comparison.Precision())
    assert run_cell(cell, small.execution(tmp_path)).environment["backbone_weights"] == origin
    plain = comparison.Cell(
        comparison.open_setting(small.protocol(), None), small.head(), 0, comparison.Precision()
    )
    other = run_cell(plain, small.execution(tmp_path / "plain"))
    assert "backbone_weights" not in other.environment


def test_a_plan_says_what_weights_are(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(tiny("deep").state_dict(), path)
    wanted = Wanted(heads=[], seeds=[0], time_steps=0)
    notes = plan_comparison(protocol(path, stem="deep"), wanted, small.execution(tmp_path)).notes
    assert "Backbone weights: weights.pth: names of PyTorch-Encoding (conv1.0)." in notes
    notes = plan_comparison(protocol(path), wanted, small.execution(tmp_path)).notes
    (note,) = [note for note in notes if "weights" in note]
    assert note.startswith("With these weights compare would stop: ")
