"""Backbones from timm (https://github.com/huggingface/pytorch-image-models), extra `timm`.

A network of timm comes as its feature extractor (`features_only`). Its last four stages become
`Features`, so their strides must be those of a dilated ResNet: 4, 8 and twice the output stride, or
4, 8, 16 and 32. Whether a network can trade strides for dilation is up to its code in timm;
ResNets, their relatives, RegNet, ConvNeXt and EfficientNet can, most transformers cannot.

Maps have the sizes of a ResNet's, in which every stride rounds up. Where a network rounds down or
takes no odd sizes, the image is padded at the bottom and at the right, with the mean (0 after
normalisation) up to a multiple of 32, and the maps are cut to size.

HRNet: Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", TPAMI
2021, arXiv:1908.07919v2, sec. 3.3: branches y_1 .. y_4 of strides 4, 8, 16, 32 and widths
C, 2C, 4C, 8C become the representation HRNetV2,

    [y_1, up(y_2), up(y_3), up(y_4)]      15 C channels at stride 4: 270 for W18, 720 for W48.

It is `layer4`, and `layer3` as well, since OCR's coarse classifier and auxiliary branches stand on
it in the published HRNet + OCR; `layer1` and `layer2` are y_1 and y_2. Where branches are fused,
coarse ones are enlarged bilinearly, as in the paper (sec. 3.2) and in its segmentation code; timm's
classifiers take the nearest pixel. Departs: resizing without aligned corners, as everywhere here.

timm is imported when a network is built: it is an extra, and importing it takes seconds.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contextbench.config.protocols import WEIGHT_SUFFIXES, weights_file
from contextbench.data.transforms import MEAN, STD
from contextbench.models.backbone import OUTPUT_STRIDES, Backbone
from contextbench.models.pretrained import Naming, Wanted, WeightsError, fit
from heads.blocks import resize_like
from heads.interface import Channels, Features

PREFIX = "timm:"
HRNET_STRIDE = 4
DEFAULT_WEIGHTS = "imagenet"
STAGES = (-4, -3, -2, -1)  # the last four: what comes before has stride 2
COARSEST = 32  # stride of the deepest stage before it is traded for dilation, at most
PROBE_SIDE = 2 * COARSEST  # pixels of the image that shows a network's strides


class TimmBackbone(Backbone):
    """The last four stages of a network of timm, of the given strides.

    `padded`: the network is run on images whose sides are multiples of 32.
    """

    def __init__(
        self,
        network: nn.Module,
        channels: Channels,
        *,
        output_stride: int,
        strides: Sequence[int],
        padded: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.channels = channels
        self.output_stride = output_stride
        self.strides = tuple(strides)
        self.padded = padded

    def forward(self, images: Tensor) -> Features:
        return Features(*self._stages(images))

    def synchronise_batch_norm(self) -> None:
        # torch's own conversion loses the activations that timm has inside of its batch norms.
        self.network = import_module("timm.layers").convert_sync_batchnorm(self.network)

    def _stages(self, images: Tensor) -> list[Tensor]:
        """One map (N, C, ceil(H / stride), ceil(W / stride)) for each stride."""
        images = self.prepared(images)
        height, width = images.shape[-2:]
        below, beside = -height % COARSEST, -width % COARSEST
        if not self.padded or below == beside == 0:
            return list(self.network(images))
        maps = self.network(F.pad(images, (0, beside, 0, below)))
        return [
            stage[..., : math.ceil(height / stride), : math.ceil(width / stride)]
            for stage, stride in zip(maps, self.strides, strict=True)
        ]


class HRNetBackbone(TimmBackbone):
    """HRNetV2: all branches at stride 4, concatenated, as layer3 and as layer4."""

    def forward(self, images: Tensor) -> Features:
        branches = self._stages(images)
        same_size = [resize_like(branch, branches[0]) for branch in branches]
        representation = torch.cat(same_size, dim=1)  # (N, 15 C, H/4, W/4)
        return Features(branches[0], branches[1], representation, representation)


def build_timm_backbone(
    name: str, *, output_stride: int = 8, weights: str | None = None
) -> TimmBackbone:
    """Build a network of timm by its name there, with or without the prefix `timm:`.

    `weights` is `imagenet` for the weights that timm prefers, the tag of others, such as `ms_in1k`,
    or a file that has the tensors of timm's classifier of that name (`pretrained`). On the meta
    device a file is looked at but not loaded. Raises ValueError for an unknown name, a network
    without the strides that are asked for, and if timm is missing; `WeightsError` for bad weights.
    """
    name = name.removeprefix(PREFIX)
    timm = _timm(name)
    _check_name(timm, name)
    hrnet = name in timm.list_models(module="hrnet")
    _check_stride(name, hrnet, output_stride)
    tag = _tag(timm, name, weights)
    options = {"feature_location": ""} if hrnet else _dilation(timm, name, output_stride)
    network = _network(timm, name, tag, options)
    origin = None if tag is None else f"{tag} of timm {timm.__version__}"
    if (file := weights_file(weights)) is not None:
        origin = _load_file(timm, network, name, file)
    built = _hrnet(network, name) if hrnet else _pyramid(network, name, output_stride)
    built.origin = origin
    return built


def hrnet_names() -> list[str]:
    """Names of timm's HRNets with the prefix; none where timm is not installed."""
    try:
        return [PREFIX + name for name in import_module("timm").list_models(module="hrnet")]
    except ImportError:
        return []


def _pyramid(network: nn.Module, name: str, output_stride: int) -> TimmBackbone:
    channels, strides = _channels_and_strides(network, name)
    wanted = (4, 8, min(16, output_stride), output_stride)
    if strides != wanted:
        raise ValueError(
            f"{PREFIX}{name} has stages of strides {_series(strides)}; output_stride "
            f"{output_stride} needs {_series(wanted)}"
        )
    return TimmBackbone(
        network,
        Channels(*channels),
        output_stride=output_stride,
        strides=strides,
        padded=not _rounds_up(network, strides),
    )


def _hrnet(network: nn.Module, name: str) -> HRNetBackbone:
    """Channels (C, 2C, 15C, 15C)."""
    for module in network.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", False
    channels, strides = _channels_and_strides(network, name)
    total = sum(channels)
    return HRNetBackbone(
        network,
        Channels(channels[0], channels[1], total, total),
        output_stride=HRNET_STRIDE,
        strides=strides,
        padded=True,
    )


def _timm(name: str) -> Any:
    try:
        return import_module("timm")
    except ImportError:
        raise ValueError(
            f"{PREFIX}{name} needs timm, which is not installed: pip install 'contextbench[timm]'"
        ) from None


def _check_name(timm: Any, name: str) -> None:
    known = timm.list_models()
    if name in known:
        return
    architecture, _, tag = name.partition(".")
    if tag and architecture in known:
        raise ValueError(
            f"{PREFIX}{name}: write {PREFIX}{architecture}, and {tag} as backbone.weights"
        )
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {PREFIX}{nearest[0]}?" if nearest else ""
    raise ValueError(f"timm {timm.__version__} has no network {name!r}{hint}")


def _check_stride(name: str, hrnet: bool, output_stride: int) -> None:
    if hrnet and output_stride != HRNET_STRIDE:
        raise ValueError(
            f"output_stride {output_stride}: {PREFIX}{name} has maps of stride {HRNET_STRIDE}, and "
            f"no other; set backbone.output_stride: {HRNET_STRIDE}"
        )
    if not hrnet and output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output_stride {output_stride}: allowed for {PREFIX}{name} are 8, 16, 32")


def _tag(timm: Any, name: str, weights: str | None) -> str | None:
    """Which of timm's weight sets to load; None for none of them. Raises `WeightsError`."""
    if weights is None or weights_file(weights) is not None:
        return None
    tags = [full.partition(".")[2] for full in timm.list_pretrained(name)]
    preferred = timm.get_pretrained_cfg(name)
    tag = str(preferred.tag) if preferred and weights == DEFAULT_WEIGHTS else weights
    if tag not in tags:
        choices = [DEFAULT_WEIGHTS, *tags] if tags else []
        raise WeightsError(
            f"{PREFIX}{name} has no published weights {weights!r}. Allowed for backbone.weights: "
            f"{''.join(f'{each}, ' for each in choices)}a file ({', '.join(WEIGHT_SUFFIXES)})"
        )
    _check_statistics(timm.get_pretrained_cfg(f"{name}.{tag}"), f"{PREFIX}{name}", tag)
    return tag


def _check_statistics(published: Any, name: str, tag: str) -> None:
    """Refuse weights that were trained on images normalised in another way than ours are."""
    if (tuple(published.mean), tuple(published.std)) != (MEAN, STD):
        raise WeightsError(
            f"backbone.weights {tag!r} of {name} expect images with mean {list(published.mean)} "
            f"and deviation {list(published.std)}; images have {list(MEAN)} and {list(STD)} here"
        )


def _network(timm: Any, name: str, tag: str | None, options: Mapping[str, Any]) -> nn.Module:
    """The feature extractor, on timm's weights where a tag is given."""
    full = name if tag is None else f"{name}.{tag}"
    try:
        network: nn.Module = timm.create_model(
            full, features_only=True, out_indices=STAGES, pretrained=tag is not None, **options
        )
    except Exception as error:  # of other people's code, and of a network connection
        if tag is not None:
            raise WeightsError(_download_message(timm, name, tag, error)) from error
        raise ValueError(f"{PREFIX}{name} gives no four feature maps: {error}") from error
    return network


def _dilation(timm: Any, name: str, output_stride: int) -> dict[str, int]:
    """The option that asks for the stride; none for networks that refuse it.

    They may have it as they are.
    """
    options = {"output_stride": output_stride}
    try:
        with torch.device("meta"):
            timm.create_model(name, features_only=True, **options)
    except (AssertionError, TypeError):
        return {}
    return options


def _download_message(timm: Any, name: str, tag: str, error: Exception) -> str:
    published = timm.get_pretrained_cfg(f"{name}.{tag}")
    source = published.hf_hub_id or published.url
    return (
        f"could not get the weights {tag!r} of {PREFIX}{name} ({error}). Fetch {source} on a "
        "machine with a network connection (on the Hugging Face Hub it is model.safetensors) and "
        "name the file in the protocol, backbone.weights: path/to/model.safetensors"
    )


def _load_file(timm: Any, network: nn.Module, name: str, path: Path) -> str:
    """Load what a file has of the extractor; what that was. Raises `WeightsError`.

    timm's own loader would take a file that has nothing in common with the network.
    """
    own = network.state_dict()
    with torch.device("meta"):
        classifier = timm.create_model(name).state_dict()
    wanted = Wanted(
        name=f"{PREFIX}{name}",
        shapes={key: tuple(tensor.shape) for key, tensor in own.items()},
        namings=[Naming("names of timm", {key: _key_in_file(key, classifier) for key in own})],
        beyond=classifier,
    )
    fitted = fit(path, wanted)
    if not next(network.parameters()).is_meta:
        network.load_state_dict(fitted.tensors, strict=False)  # batch norms may lack a counter
    return fitted.origin


def _key_in_file(key: str, classifier: Mapping[str, Any]) -> str:
    """The classifier's name of a tensor: extractors write the `.` between two modules as `_`."""
    if key in classifier:
        return key
    places = [place for place, letter in enumerate(key) if letter == "_"]
    names = [f"{key[:place]}.{key[place + 1 :]}" for place in places]
    return next((name for name in names if name in classifier), key)


def _channels_and_strides(network: nn.Module, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of each stage, from an image: what a network says of itself may be wrong."""
    try:
        shapes = _shapes(network, PROBE_SIDE)
    except Exception as error:  # other people's code, on a size it may not be made for
        raise ValueError(
            f"{PREFIX}{name} cannot be run on images of any size: {error or type(error).__name__}"
        ) from error
    return tuple(shape[1] for shape in shapes), tuple(PROBE_SIDE // shape[3] for shape in shapes)


def _rounds_up(network: nn.Module, strides: Sequence[int]) -> bool:
    """Whether maps have the sizes of a ResNet's where strides do not divide the image."""
    side = PROBE_SIDE + 1  # rounded up, still odd after every stride of 2
    try:
        shapes = _shapes(network, side)
    except Exception:  # other people's code: sums of maps whose sizes differ
        return False
    return [shape[3] for shape in shapes] == [math.ceil(side / stride) for stride in strides]


def _shapes(network: nn.Module, side: int) -> list[torch.Size]:
    """Of the maps (1, C, h, w) of a square image; the network's mode is what it was."""
    weight = next(network.parameters())
    image = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
    training = network.training
    try:
        with torch.no_grad():
            return [stage.shape for stage in network.eval()(image)]
    finally:
        network.train(training)


def _series(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides))
