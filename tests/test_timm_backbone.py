"""Networks of timm as backbones: stages, strides, weights from files, HRNetV2's representation."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.cli.inventory import INVENTORY
from contextbench.config.files import ConfigError
from contextbench.config.protocols import Protocol
from contextbench.measure.counts import count
from contextbench.measure.memory import predict_inference, predict_training_step
from contextbench.models.backbone import build_backbone
from contextbench.models.build import build_model, loss_weights
from contextbench.models.checkpoint import CheckpointError
from contextbench.models.precision import Precision
from contextbench.models.pretrained import WeightsError
from contextbench.models.segmenter import Segmenter
from contextbench.models.timm_backbone import HRNetBackbone, TimmBackbone, build_timm_backbone
from contextbench.runs.cells import open_setting
from contextbench.runs.grid import run_grid
from contextbench.runs.weights import load_trained
from contextbench.training.loop import freeze_batch_norm
from contextbench.training.losses import loss_terms, weighted_sum
from heads import HEADS
from heads.interface import Features
from tests import small
from tests.cases import quick

timm = pytest.importorskip("timm", reason="timm is not installed (extra timm)")

HRNET = "timm:hrnet_w18_small"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def on_meta(name: str, **options: Any) -> TimmBackbone:
    with torch.device("meta"):
        return build_timm_backbone(name, **options)


def check_shapes(backbone: TimmBackbone, size: tuple[int, int], strides: Sequence[int]) -> None:
    """Of a ResNet, whose strides round up."""
    features = backbone(torch.zeros(1, 3, *size, device="meta"))
    for stage, channels, stride in zip(features, backbone.channels, strides, strict=True):
        assert stage.shape == (1, channels, *(math.ceil(side / stride) for side in size))


@pytest.mark.parametrize("output_stride", quick([8, 16, 32], (8,)))
def test_a_resnet_of_timm_has_the_stages_of_ours(output_stride: int) -> None:
    """Both are torchvision's network: the same channels, the same shapes for odd sizes too."""
    theirs = on_meta("timm:resnet50", output_stride=output_stride)
    with torch.device("meta"):
        ours = build_backbone("resnet50", output_stride=output_stride)
    assert theirs.channels == ours.channels
    assert theirs.output_stride == ours.output_stride == output_stride
    batch = torch.zeros(2, 3, 97, 64, device="meta")
    shapes = [stage.shape for stage in ours(batch)]
    assert [stage.shape for stage in theirs(batch)] == shapes


def test_a_resnet_of_timm_computes_what_ours_does() -> None:
    """With the same weights, undilated: timm's parameters have torchvision's names too."""
    theirs = build_timm_backbone("resnet18", output_stride=32).eval()
    ours = build_backbone("resnet18", output_stride=32).eval()
    ours.load_state_dict(theirs.network.state_dict())
    with torch.inference_mode():
        for one, other in zip(theirs(images()), ours(images()), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "name",
    quick(
        ["regnety_002", "convnext_atto", "efficientnet_b0", "xception41", "resnetv2_18"],
        ("convnext_atto",),
    ),
)
def test_other_networks_have_our_stages_at_stride_8(name: str) -> None:
    """Of four levels and of five, from each of timm's three kinds of extractors.

    ConvNeXt rounds down, so it sees a padded image.
    """
    backbone = on_meta(name)
    for size in ((64, 96), (70, 97), (33, 31)):
        check_shapes(backbone, size, (4, 8, 8, 8))


def test_padding_is_of_zeros_below_and_beside_and_is_cut_off_again() -> None:
    backbone = build_timm_backbone("convnext_atto").eval()
    assert backbone.padded
    batch = images(40, 61)
    padded = torch.zeros(2, 3, 64, 64)
    padded[:, :, :40, :61] = batch
    with torch.inference_mode():
        features, whole = backbone(batch), backbone.network(padded)
    for stage, map_, size in zip(features, whole, [(10, 16), *[(5, 8)] * 3], strict=True):
        torch.testing.assert_close(stage, map_[:, :, : size[0], : size[1]])


@pytest.mark.slow
def test_only_networks_that_need_it_are_padded() -> None:
    """A ResNet's numbers at odd sizes are its own; DLA adds maps that must be of one size."""
    names = {"resnet18": False, "resnetv2_18": False, "convnext_atto": True, "dla34": True}
    found = {name: on_meta(name, output_stride=32).padded for name in names}
    assert found == names


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:resnet19", {}, r"no network 'resnet19'; did you mean timm:resnet1"),
        ("timm:resnet18.a1_in1k", {}, "write timm:resnet18, and a1_in1k as backbone.weights"),
        ("vgg11", {}, "strides 4, 8, 16, 32; output_stride 8 needs 4, 8, 8, 8"),
        ("densenet121", {"output_stride": 16}, "output_stride 16 needs 4, 8, 16, 16"),
        ("vit_tiny_patch16_224", {}, "cannot be run on images of any size: .*224"),
        ("resnet18", {"output_stride": 4}, "allowed for timm:resnet18 are 8, 16, 32"),
        ("hrnet_w18_small", {}, "set backbone.output_stride: 4"),
        (
            "resnet18",
            {"weights": "a9"},
            "Allowed for backbone.weights: imagenet, a1_in1k, .*a file",
        ),
        ("resnet18", {"weights": "none.pth"}, "no such file: none.pth"),
        (
            "resnetv2_50x1_bit",
            {"weights": "imagenet"},
            r"expect images with mean \[0.5, 0.5, 0.5\]",
        ),
    ],
)
def test_what_cannot_be_built_says_why(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        on_meta(name, **options)


def test_a_network_without_dilation_is_taken_at_its_own_stride() -> None:
    assert on_meta("vgg11", output_stride=32).channels == (256, 512, 512, 512)


def test_a_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'contextbench\[timm\]'"):
        build_timm_backbone("timm:resnet18")


def classifier(name: str) -> nn.Module:
    """timm's network, batch norms filled so that a tensor that is not loaded shows."""
    network: nn.Module = timm.create_model(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.0)
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "regnety_002", "convnext_atto"])
def test_weights_of_the_classifier_load_from_a_file(name: str, tmp_path: Path) -> None:
    """The last stage is what the classifier computes there, whatever an extractor calls it."""
    network = classifier(name)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    file = str(tmp_path / "weights.safetensors")
    backbone = build_timm_backbone(name, output_stride=32, weights=file).eval()
    with torch.inference_mode():
        _, stages = network.forward_intermediates(images())
        torch.testing.assert_close(backbone(images()).layer4, stages[-1])


@pytest.mark.slow
def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    """A deeper network of the family has every tensor; timm's own loader would take both."""
    for name in ("resnet18", "resnet34"):
        torch.save(timm.create_model(name).state_dict(), tmp_path / f"{name}.pth")
    with pytest.raises(WeightsError, match=r"unexpected keys: layer1\.2\.conv1\.weight"):
        build_timm_backbone("resnet18", weights=str(tmp_path / "resnet34.pth"))
    with pytest.raises(WeightsError, match=r"missing keys: layer1\.2\.conv1\.weight"):
        build_timm_backbone("resnet34", weights=str(tmp_path / "resnet18.pth"))
    state = timm.create_model("resnet18").state_dict()
    torch.save({**state, "conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "shape.pth")
    with pytest.raises(WeightsError, match=r"conv1\.weight \[8, 3, 7, 7\] for \[64, 3, 7, 7\]"):
        build_timm_backbone("resnet18", weights=str(tmp_path / "shape.pth"))


def test_wrapped_weights_load_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    network = classifier("regnety_002")
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "weights.pth")
    file = str(tmp_path / "weights.pth")
    backbone = build_timm_backbone("regnety_002", output_stride=32, weights=file).eval()
    assert backbone.origin == (
        "weights.pth: names of timm in 'state_dict' below 'module.'; left out: head (2)"
    )
    with torch.inference_mode():
        _, stages = network.forward_intermediates(images())
        torch.testing.assert_close(backbone(images()).layer4, stages[-1])


def test_weights_of_the_authors_segmentation_network_load_into_hrnet(tmp_path: Path) -> None:
    """HRNet-Semantic-Segmentation wraps its network, whose trunk has timm's names, as `model`.

    It has no `incre_modules`, `downsamp_modules`, `final_layer`, but `last_layer`, and OCR's parts.
    """
    source = classifier("hrnet_w18_small").state_dict()
    trunk = {
        key: value
        for key, value in source.items()
        if key.split(".")[0]
        not in ("incre_modules", "downsamp_modules", "final_layer", "classifier")
    }
    heads = {"cls_head.weight": torch.zeros(19, 512, 1, 1), "aux_head.0.weight": torch.zeros(1)}
    content = {f"model.{key}": value for key, value in (trunk | heads).items()}
    torch.save({**content, "loss.criterion.weight": torch.ones(19)}, tmp_path / "weights.pth")
    file = str(tmp_path / "weights.pth")
    backbone = build_timm_backbone("hrnet_w18_small", output_stride=4, weights=file)
    assert backbone.origin == (
        "weights.pth: names of timm below 'model.'; left out: cls_head (1), aux_head (1), loss (1)"
    )
    for key, value in backbone.network.state_dict().items():
        assert torch.equal(value, trunk[key]), key


def test_published_weights_are_loaded_by_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def create(name: str, **options: Any) -> nn.Module:
        asked.append((name, options.pop("pretrained", False)))
        return original(name, **options)

    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    on_meta("hrnet_w18_small", output_stride=4, weights="ms_in1k")
    on_meta("resnet18", weights="imagenet")
    loaded = [name for name, pretrained in asked if pretrained]
    assert loaded == ["hrnet_w18_small.ms_in1k", "resnet18.a1_in1k"]  # timm prefers a1


def test_a_failed_download_says_how_to_pass_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, **options: Any) -> nn.Module:
        if options.get("pretrained"):
            raise OSError("no route to host")
        return original(name, **options)

    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    pattern = r"'ms_in1k' of timm:hrnet_w18_small \(no route to host\).*timm/hrnet_w18_small.*file"
    with pytest.raises(WeightsError, match=pattern):
        on_meta("hrnet_w18_small", output_stride=4, weights="ms_in1k")


def test_hrnet_is_concatenated_as_in_hrnetv2() -> None:
    """All branches at the size of the first one, a quarter of the image; sizes round up."""
    backbone = build_timm_backbone("timm:hrnet_w18_small", output_stride=4).eval()
    batch = images(70, 97)
    padded = F.pad(batch, (0, 128 - 97, 0, 96 - 70))  # its fusions add maps of one size
    with torch.inference_mode():
        features, branches = backbone(batch), backbone.network(padded)
    expected = []
    for branch, channels, stride in zip(branches, (16, 32, 64, 128), (4, 8, 16, 32), strict=True):
        cut = branch[:, :, : math.ceil(70 / stride), : math.ceil(97 / stride)]
        for channel in range(channels):
            one = cut[:, channel : channel + 1]
            expected.append(F.interpolate(one, size=(18, 25), mode="bilinear", align_corners=False))
    torch.testing.assert_close(features.layer4, torch.cat(expected, dim=1))
    assert features.layer3 is features.layer4
    torch.testing.assert_close(features.layer1, features.layer4[:, :16])
    assert features.layer2.shape == (2, 32, 9, 13)
    torch.testing.assert_close(features.layer2, branches[1][:, :, :9, :13])
    assert backbone.output_stride == 4


def test_hrnet_fuses_branches_bilinearly(hrnet: HRNetBackbone) -> None:
    """As in the paper; the first branch takes a 1x1 convolution and batch norm of each other."""
    module = hrnet.network.stage4[-1].eval()
    generator = torch.Generator().manual_seed(3)
    sizes = zip((16, 32, 64, 128), (16, 8, 4, 2), strict=True)
    maps = [torch.rand(1, channels, side, side, generator=generator) for channels, side in sizes]
    with torch.inference_mode():
        total = module.branches[0](maps[0])
        for branch, fuse, x in zip(
            module.branches[1:], module.fuse_layers[0][1:], maps[1:], strict=True
        ):
            narrow = fuse[1](fuse[0](branch(x)))
            total = total + F.interpolate(narrow, size=(16, 16), mode="bilinear")
        fused = module(list(maps))[0]
    torch.testing.assert_close(fused, total.relu())


@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [
        ("hrnet_w18_small", 16, "1.5"),
        pytest.param("hrnet_w18_small_v2", 18, "3.9", marks=pytest.mark.slow),
        pytest.param("hrnet_w18", 18, None, marks=pytest.mark.slow),
        pytest.param("hrnet_w48", 48, "65.9", marks=pytest.mark.slow),
    ],
)
def test_hrnets_have_their_published_size(name: str, width: int, millions: str | None) -> None:
    """Channels are 15 times the width: 270 for W18, 720 for W48.

    Parameters are those of the authors' segmentation networks: of W48 in the paper, of small ones
    in their repository. Their classifier of 19 classes is a 1x1 convolution with bias and batch
    norm on the 15 C channels, and a 1x1 convolution.
    """
    backbone = on_meta(name, output_stride=4)
    total = 15 * width
    assert backbone.channels == (width, 2 * width, total, total)
    check_shapes(backbone, (40, 97), (4, 8, 4, 4))
    classifier = total * total + total + 2 * total + 19 * total + 19
    parameters = sum(p.numel() for p in backbone.parameters()) + classifier
    assert millions in (None, f"{parameters / 1e6:.1f}")


def protocol(name: str = HRNET, stride: int = 4, **train: Any) -> Protocol:
    content = small.protocol(**train).model_dump()
    return Protocol.model_validate({**content, "backbone": {"name": name, "output_stride": stride}})


@pytest.fixture(scope="module")
def hrnet() -> HRNetBackbone:
    backbone = build_timm_backbone("hrnet_w18_small", output_stride=4)
    assert isinstance(backbone, HRNetBackbone)
    return backbone


@pytest.fixture(scope="module")
def convnext() -> TimmBackbone:
    return build_timm_backbone("convnext_atto").eval()


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains_on_hrnet(head: str, hrnet: HRNetBackbone) -> None:
    """Logits at the output stride, exactly the weighted terms, a gradient for every parameter."""
    model = build_model(protocol(), small.head(head), 5, seed=0, backbone=hrnet)
    hrnet.zero_grad()
    labels = torch.randint(0, 5, (2, 61, 64), generator=torch.Generator().manual_seed(2))
    output = model(images(61, 64), labels)
    assert output.logits.shape == (2, 5, 16, 16)
    terms = loss_terms(output, labels, 255)
    assert terms.keys() == {"main", *model.head.loss_weights}
    torch.autograd.backward(weighted_sum(terms, dict(model.head.loss_weights)))
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_every_head_takes_maps_that_were_cut(head: str, convnext: TimmBackbone) -> None:
    """Maps of a padded image are parts of larger ones, so not contiguous."""
    model = build_model(
        protocol("timm:convnext_atto", 8), small.head(head), 5, seed=0, backbone=convnext
    ).eval()
    with torch.inference_mode():
        features = convnext(images(41, 60))
        assert not features.layer4.is_contiguous()
        logits = model(features).logits
        whole = Features(*(stage.contiguous() for stage in features))
        torch.testing.assert_close(logits, model(whole).logits)
    assert logits.shape == (2, 5, *getattr(features, model.head.logits_stage).shape[-2:])


@pytest.mark.parametrize(
    ("option", "value"),
    [("stem", "deep"), ("multi_grid", (1, 2, 4)), ("width", 32), ("basic_dilation", "first")],
)
def test_options_of_the_resnets_are_refused(option: str, value: Any) -> None:
    content = protocol().model_dump()
    changed = {**content, "backbone": {**content["backbone"], option: value}}
    with pytest.raises(ConfigError, match=f"leave backbone.{option} out"):
        build_model(Protocol.model_validate(changed), small.head(), 5, seed=0)


def test_a_protocol_builds_it_and_the_seed_decides() -> None:
    weights = [
        build_model(protocol(), small.head(), 5, seed=seed).backbone.network.conv1.weight
        for seed in (3, 3, 4)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_synchronised_batch_norm_keeps_the_activations_inside_of_batch_norms() -> None:
    """torch's own conversion would drop them without a word."""
    backbone = build_timm_backbone("regnety_002").eval()
    with torch.inference_mode():
        before = backbone(images())
        backbone.synchronise_batch_norm()
        after = backbone(images())
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    torch.testing.assert_close(after, before)


def test_frozen_batch_norms_keep_their_statistics() -> None:
    """Those of timm hold an activation and are of classes of its own."""
    backbone = build_timm_backbone("regnety_002").train()
    freeze_batch_norm(backbone)
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    torch.autograd.backward(backbone(images()).layer4.sum())
    assert len(before) > 100
    for name, value in backbone.named_buffers():
        torch.testing.assert_close(value, before[name])
    trained = [name for name, value in backbone.named_parameters() if value.grad is not None]
    assert trained
    assert not any("bn" in name for name in trained)


@pytest.mark.slow
def test_costs_are_those_of_our_resnet() -> None:
    """The same convolutions at the same stride: MACs, parameters and weights' bytes alike."""
    theirs = on_meta("resnet18")
    with torch.device("meta"):
        ours, image = build_backbone("resnet18"), torch.empty(1, 3, 64, 96)
    one, other = count(theirs, image), count(ours, image)
    assert (one.macs, one.parameters) == (other.macs, other.parameters)
    one_memory, other_memory = predict_inference(theirs, image), predict_inference(ours, image)
    assert one_memory.weights_bytes == other_memory.weights_bytes


@pytest.mark.slow
def test_work_on_padding_counts() -> None:
    backbone = on_meta(HRNET, output_stride=4)
    sizes = [(40, 61), (64, 64)]
    odd, even = (count(backbone, torch.empty(1, 3, *size, device="meta")).macs for size in sizes)
    assert odd == even > 0


@pytest.mark.slow
def test_memory_of_a_training_step_holds_every_branch() -> None:
    """At least the weights, their gradients, and the representation and its logits' inputs."""
    with torch.device("meta"):
        model = build_model(protocol(), small.head(), 5, seed=0)
        batch, labels = torch.empty(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64)
    weights = loss_weights(model, small.head())

    def step(fake: nn.Module, part: tuple[Tensor, Tensor]) -> None:
        fake.zero_grad(set_to_none=True)
        torch.autograd.backward(weighted_sum(loss_terms(fake(part[0]), part[1], 255), weights))

    predicted = predict_training_step(model, step, (batch, labels), optimizer="sgd")
    parameters = sum(p.numel() for p in model.parameters())
    representation = 2 * 240 * 16 * 16
    assert predicted.gradient_bytes == 4 * parameters
    assert predicted.peak_bytes > 4 * (3 * parameters + representation)


def test_backbones_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = INVENTORY["backbones"]()
    assert {"resnet50", "timm:hrnet_w18", "timm:hrnet_w48", "timm:NAME"} <= listed.keys()
    monkeypatch.setitem(sys.modules, "timm", None)
    without = INVENTORY["backbones"]()
    assert "timm:hrnet_w18" not in without
    assert "extra timm" in without["timm:NAME"]


def invoke(*arguments: object, backbone: str, stride: int) -> Any:
    narrow = [each for each in small.SETTINGS if not each.startswith("backbone.")]
    own = (f"backbone.name={backbone}", f"backbone.output_stride={stride}", "backbone.width=64")
    settings = [part for each in (*narrow, *own) for part in ("--set", each)]
    return CliRunner().invoke(app, [*map(str, arguments), *settings], env={"COLUMNS": "200"})


@pytest.mark.slow
def test_a_plan_counts_it(tmp_path: Path) -> None:
    dry_run = ("compare", "--heads", "fcn", "--out", tmp_path, "--dry-run", "--json")
    result = invoke(*dry_run, backbone="timm:resnet10t", stride=8)
    assert result.exit_code == 0, result.output
    [head] = json.loads(result.stdout)["heads"]
    backbone = on_meta("resnet10t")
    assert head["parameters"] > sum(p.numel() for p in backbone.parameters())
    assert head["macs"] > count(backbone, torch.empty(1, 3, 64, 64, device="meta")).macs
    assert head["training_memory_bytes"] > 3 * 4 * head["parameters"]


@pytest.mark.parametrize(
    ("backbone", "stride", "message"),
    [
        (HRNET, 8, "backbone.output_stride: 4"),
        ("timm:vgg11", 8, "output_stride 8 needs 4, 8, 8, 8"),
        ("resnet10", 4, "output_stride 4: allowed are 8, 16 and 32"),
    ],
)
def test_wrong_strides_end_the_command_before_it_begins(
    backbone: str, stride: int, message: str, tmp_path: Path
) -> None:
    run = ("train", "--head", "fcn", "--out", tmp_path)
    result = invoke(*run, backbone=backbone, stride=stride)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("name", "stride"), quick([("timm:resnet10t", 8), (HRNET, 4)], [(HRNET, 4)])
)
def test_a_head_is_trained_and_loaded_again(name: str, stride: int, tmp_path: Path) -> None:
    """From data to record; and a checkpoint is of its backbone and its number of classes."""
    setting = open_setting(protocol(name, stride, steps=2), None)
    [record] = run_grid(setting, [small.head()], [0], Precision(), small.execution(tmp_path))
    assert record.failure is None
    assert (record.status, record.steps, record.evaluated_images) == ("done", 2, 3)
    folder = tmp_path / "tiny" / "fcn" / "seed-0"

    def load(configured: Protocol, classes: int) -> Segmenter:
        cpu = torch.device("cpu")
        return load_trained(folder, configured, small.head(), classes, Precision(), cpu)

    model = load(setting.protocol, setting.num_classes)
    assert model.backbone.output_stride == stride
    with pytest.raises(CheckpointError, match=f"backbone is '{name}', expected 'resnet10'"):
        load(small.protocol(), setting.num_classes)
    with pytest.raises(CheckpointError, match="num_classes is '13', expected '19'"):
        load(setting.protocol, 19)
