"""Backbones against torchvision, the à trous property, and weights from files and the network."""

from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from contextbench.models.backbone import RESNETS, Backbone, build_backbone
from contextbench.models.pretrained import WeightsError
from tests.cases import quick

NAMES = list(RESNETS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _fill(module: nn.Module) -> None:
    """Give batch norms statistics, so that a swapped layer shows."""
    generator = torch.Generator().manual_seed(1)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            for tensor in (each.weight, each.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.0, generator=generator)
            for tensor in (each.bias, each.running_mean):
                assert tensor is not None
                tensor.data.uniform_(-0.1, 0.1, generator=generator)


def _images(height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def _torchvision(name: str, dilated: list[bool]) -> ResNet:
    spec = RESNETS[name]
    network = ResNet(spec.block, list(spec.blocks), replace_stride_with_dilation=dilated)
    _fill(network)
    return network.eval()


def _with_state_of(network: nn.Module, name: str, **options: Any) -> Backbone:
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    backbone = build_backbone(name, **options)
    backbone.load_state_dict(state)
    return backbone.eval()


def _stages(network: Any, images: Tensor) -> list[Tensor]:
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    stages = []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
        stages.append(x)
    return stages


@pytest.mark.parametrize(
    ("name", "output_stride", "dilated"),
    [
        ("resnet18", 32, [False, False, False]),
        pytest.param("resnet50", 32, [False, False, False], marks=pytest.mark.slow),
        pytest.param("resnet50", 16, [False, False, True], marks=pytest.mark.slow),
        ("resnet50", 8, [False, True, True]),
    ],
)
def test_equals_torchvision(name: str, output_stride: int, dilated: list[bool]) -> None:
    network = _torchvision(name, dilated)
    backbone = _with_state_of(network, name, output_stride=output_stride)
    images = _images()
    with torch.inference_mode():
        for ours, theirs in zip(backbone(images), _stages(network, images), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_equals_torchvisions_classifier_path() -> None:
    network = _torchvision("resnet18", [False, False, False])
    backbone = _with_state_of(network, "resnet18", output_stride=32)
    with torch.inference_mode():
        pooled = network.avgpool(backbone(_images()).layer4).flatten(1)
        torch.testing.assert_close(network.fc(pooled), network(_images()))


@pytest.mark.parametrize("name", quick(["resnet10", "resnet18", "resnet50"], ("resnet18",)))
@pytest.mark.parametrize(("output_stride", "step3", "step4"), [(8, 2, 4), (16, 1, 2)])
def test_dilation_keeps_what_the_strided_network_computes(
    name: str, output_stride: int, step3: int, step4: int
) -> None:
    """À trous: a stride of s replaced by dilation gives the old value at every s-th position.

    It holds up to the border, since zero padding is the same zeros in both; odd sizes included.
    In float64, because fifty layers add up more float32 rounding than the default tolerance.
    """
    width = 8 if name == "resnet10" else 64
    strided = build_backbone(name, output_stride=32, width=width)
    _fill(strided)
    dilated = _with_state_of(strided, name, output_stride=output_stride, width=width).double()
    images = _images(43, 58).double()
    with torch.inference_mode():
        dense, coarse = dilated(images), strided.double().eval()(images)
    torch.testing.assert_close(dense.layer3[..., ::step3, ::step3], coarse.layer3)
    torch.testing.assert_close(dense.layer4[..., ::step4, ::step4], coarse.layer4)


def _dilations(backbone: Backbone) -> dict[str, list[int]]:
    """Dilation of each 3x3 convolution, stage by stage; the padding must be the same."""
    found: dict[str, list[int]] = {}
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        convolutions = [m for m in getattr(backbone, stage).modules() if isinstance(m, nn.Conv2d)]
        spatial = [c for c in convolutions if c.kernel_size == (3, 3)]
        assert all(c.padding == c.dilation for c in spatial)
        found[stage] = [c.dilation[0] for c in spatial]
    return found


def _on_meta(name: str, **options: Any) -> Backbone:
    with torch.device("meta"):
        return build_backbone(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "layer3", "layer4"),
    [
        ("resnet10", {}, [1, 2], [2, 4]),
        ("resnet18", {}, [1, 2, 2, 2], [2, 4, 4, 4]),
        ("resnet34", {}, [1] + [2] * 11, [2] + [4] * 5),
        ("resnet50", {}, [1, 2, 2, 2, 2, 2], [2, 4, 4]),
        ("resnet101", {}, [1] + [2] * 22, [2, 4, 4]),
        ("resnet18", {"output_stride": 16}, [1] * 4, [1, 2, 2, 2]),
        ("resnet50", {"output_stride": 16}, [1] * 6, [1, 2, 2]),
        ("resnet50", {"output_stride": 32}, [1] * 6, [1, 1, 1]),
        # DeepLabv3: multi-grid (1, 2, 4) gives rates 2, 4, 8 at output stride 16, doubled at 8.
        ("resnet50", {"output_stride": 16, "multi_grid": (1, 2, 4)}, [1] * 6, [2, 4, 8]),
        ("resnet50", {"multi_grid": (1, 2, 4)}, [1, 2, 2, 2, 2, 2], [4, 8, 16]),
        ("resnet34", {"multi_grid": (1, 2, 1)}, [1] + [2] * 11, [4, 4, 8, 8, 4, 4]),
        ("resnet18", {"basic_dilation": "first"}, [1, 1, 2, 1], [2, 1, 4, 1]),
    ],
)
def test_dilation_of_every_convolution(
    name: str, options: dict[str, Any], layer3: list[int], layer4: list[int]
) -> None:
    found = _dilations(_on_meta(name, **options))
    assert (found["layer3"], found["layer4"]) == (layer3, layer4)
    assert set(found["layer1"] + found["layer2"]) == {1}


@pytest.mark.parametrize("name", quick(NAMES, ("resnet18",)))
@pytest.mark.parametrize("stem", ["basic", "deep", "deep_wide"])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_shapes_and_channels(name: str, stem: Any, output_stride: int) -> None:
    """Each stride maps n to ceil(n / 2); 97 = 96 + 1 tells rounding up from rounding down."""
    backbone = _on_meta(name, stem=stem, output_stride=output_stride)
    features = backbone(torch.zeros(2, 3, 97, 64, device="meta"))
    strides = [4, 8, min(16, output_stride), output_stride]
    expansion = 4 if RESNETS[name].block is Bottleneck else 1
    assert backbone.output_stride == output_stride
    assert backbone.channels == tuple(c * expansion for c in (64, 128, 256, 512))
    for stage, channels, stride in zip(features, backbone.channels, strides, strict=True):
        assert stage.shape == (2, channels, -(-97 // stride), 64 // stride)


def test_receptive_field_of_dilated_basic_blocks() -> None:
    """Reach of resnet10-d8 in feature pixels: layer3 1 + 2, layer4 2 + 4, hence 9 from layer2 on.

    The gradient of one output pixel reaches exactly the inputs that the dilations allow.
    """
    backbone = build_backbone("resnet10", width=4).eval()
    for parameter in backbone.parameters():
        parameter.data.abs_()  # so that contributions cannot cancel or be cut by a ReLU
    layer2 = torch.rand(1, 8, 25, 25, requires_grad=True)
    out = backbone.layer4(backbone.layer3(layer2))
    out[0, :, 12, 12].sum().backward()
    assert layer2.grad is not None
    reached = layer2.grad.abs().sum(dim=(0, 1)).nonzero()
    assert reached.min(dim=0).values.tolist() == [12 - 9, 12 - 9]
    assert reached.max(dim=0).values.tolist() == [12 + 9, 12 + 9]


def test_width_scales_every_stage() -> None:
    backbone = _on_meta("resnet10", width=12)
    assert backbone.channels == (12, 24, 48, 96)
    assert backbone(torch.zeros(1, 3, 32, 32, device="meta")).layer4.shape == (1, 96, 4, 4)


@pytest.mark.parametrize(
    ("stem", "channels"), [("deep", (32, 32, 64)), ("deep_wide", (64, 64, 128))]
)
def test_channels_of_deep_stems(stem: Any, channels: tuple[int, int, int]) -> None:
    backbone = _on_meta("resnet50", stem=stem)
    convolutions = [m for m in backbone.conv1.modules() if isinstance(m, nn.Conv2d)]
    assert tuple(c.out_channels for c in convolutions) == channels
    assert [c.stride for c in convolutions] == [(2, 2), (1, 1), (1, 1)]
    a, b, c = channels
    parameters = sum(p.numel() for p in backbone.conv1.parameters())
    assert parameters == 9 * (3 * a + a * b + b * c) + 2 * (a + b)
    assert backbone.bn1.num_features == backbone.layer1[0].conv1.in_channels == c


def test_initialisation_is_torchvisions() -> None:
    """He initialisation by fan-out: variance 2 / (9 * 512) for layer4's 3x3 convolutions."""
    weight = build_backbone("resnet18").layer4[1].conv2.weight
    # The sample variance of 2.4 million normal values has a relative deviation of 0.1 %.
    torch.testing.assert_close(weight.var(), torch.tensor(2 / (9 * 512)), rtol=5e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet5", {}, "did you mean 'resnet50'"),
        ("vgg", {}, "resnet10, resnet18"),
        ("resnet18", {"stem": "wide"}, "'basic', 'deep', 'deep_wide'"),
        ("resnet18", {"output_stride": 4}, "8, 16 and 32"),
        ("resnet18", {"width": 32}, "only resnet10"),
        ("resnet10", {"width": 0}, "at least 2"),
        ("resnet50", {"multi_grid": (1, 2)}, "three factors"),
        ("resnet50", {"multi_grid": (1, 0, 2)}, "three factors"),
        ("resnet18", {"multi_grid": (1, 2, 4)}, "resnet18 has 2"),
        ("resnet18", {"basic_dilation": "last"}, "'both', 'first'"),
        ("resnet50", {"basic_dilation": "first"}, "blocks of two convolutions"),
        ("resnet10", {"weights": "IMAGENET1K_V1"}, "no published weights"),
        ("resnet50", {"weights": "IMAGENET_V2"}, "did you mean 'IMAGENET1K_V2'"),
        (
            "resnet18",
            {"weights": "IMAGENET1K_V2"},
            "Allowed for backbone.weights: IMAGENET1K_V1, a file",
        ),
        ("resnet18", {"weights": "IMAGENET1K_V1", "stem": "deep"}, "basic 7x7 stem"),
        ("resnet18", {"weights": "absent.pth"}, "no such file: absent.pth"),
    ],
)
def test_bad_options_name_what_is_allowed(name: str, options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build_backbone(name, **options)


def test_published_weights_go_through_torch_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    network = ResNet(BasicBlock, [2, 2, 2, 2])
    asked: list[tuple[str, dict[str, Any]]] = []

    def load(url: str, **options: Any) -> dict[str, Tensor]:
        asked.append((url, options))
        return dict(network.state_dict())

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load)
    backbone = build_backbone("resnet18", weights="IMAGENET1K_V1")
    assert torch.equal(backbone.layer4[1].conv2.weight, network.layer4[1].conv2.weight)
    assert asked[0][0].endswith("resnet18-f37072fd.pth")
    assert asked[0][1]["check_hash"] is True
    assert asked[0][1]["weights_only"] is True
    assert backbone.origin == "IMAGENET1K_V1 of torchvision, resnet18-f37072fd.pth"


@pytest.mark.parametrize(
    "error", [URLError("no network"), TimeoutError("slow"), RuntimeError("invalid hash value")]
)
def test_failed_download_says_how_to_pass_a_file(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    pattern = r"could not download resnet18-f37072fd\.pth .*backbone\.weights: path/to/resnet18"
    with pytest.raises(WeightsError, match=pattern):
        build_backbone("resnet18", weights="IMAGENET1K_V1")
