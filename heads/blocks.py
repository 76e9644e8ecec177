"""Parts that every head shares, so that heads differ in their context module and nowhere else.

Published code differs in details that are not the method: dropout of values or of channels,
resizing with or without aligned corners. One choice is made here for all heads: `nn.Dropout2d`
before every classifier and bilinear resizing without aligned corners.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import ClassVar, Generic, TypeVar, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.interface import (
    Channels,
    ContextHead,
    Features,
    HeadOutput,
    Implementation,
    Release,
)

Inner = TypeVar("Inner", bound=nn.Module)
Activation = Callable[[], nn.Module]

relu: Activation = partial(nn.ReLU, inplace=True)
leaky_relu: Activation = partial(nn.LeakyReLU, 0.01, inplace=True)  # of in-place batch norm
ACTIVATIONS: Mapping[str, Activation] = {"relu": relu, "leaky_relu": leaky_relu}


def checked_implementation(name: Implementation) -> Implementation:
    """`name` itself; ValueError unless it is one of the forms that every head accepts."""
    allowed = get_args(Implementation)
    if name not in allowed:
        raise ValueError(f"unknown implementation {name!r}; allowed: {', '.join(allowed)}")
    return name


def by_authors(release: Release) -> bool:
    """Whether `release` is the authors'; ValueError unless it is one that heads accept."""
    if release not in get_args(Release):
        allowed = ", ".join(get_args(Release))
        raise ValueError(f"unknown release {release!r}; allowed: {allowed}")
    return release == "authors"


def set_activation(head: nn.Module, activation: str) -> None:
    """Put `activation` in the place of every ReLU of a head. ValueError for an unknown one."""
    if activation not in ACTIVATIONS:
        allowed = ", ".join(ACTIVATIONS)
        raise ValueError(f"unknown activation {activation!r}; allowed: {allowed}")
    if activation == "relu":
        return
    for module in list(head.modules()):
        for name, part in module.named_children():
            if isinstance(part, nn.ReLU):
                setattr(module, name, ACTIVATIONS[activation]())


def abn_activation(release: Release) -> Activation:
    """ReLU, and in code that is built on in-place batch norm leaky ReLU of slope 0.01.

    In-place batch norm multiplies by |weight| + eps: published weights are to be loaded as that.
    """
    return leaky_relu if by_authors(release) else relu


class TwoForms(nn.Module):
    """One function in two forms: `_reference` is the paper's formula, `_fast` does less work.

    Both have the same parameters and give the same output. Profiling finds these modules by their
    class and times them apart from the layers around them.
    """

    _fast: Callable[..., Tensor]
    _reference: Callable[..., Tensor]

    def __init__(self, implementation: Implementation) -> None:
        super().__init__()
        self.implementation = checked_implementation(implementation)

    def forward(self, *inputs: Tensor) -> Tensor:
        form = self._fast if self.implementation == "fast" else self._reference
        return form(*inputs)


class ConvBnRelu(nn.Sequential):
    """A convolution, batch norm and ReLU, or another activation, that a form may run apart."""

    @property
    def convolution(self) -> nn.Conv2d:
        return cast(nn.Conv2d, self[0])

    @property
    def norm(self) -> nn.Module:
        return self[1]

    def activate(self, convolved: Tensor) -> Tensor:
        """Batch norm and activation of an output that was convolved in another way."""
        activated: Tensor = self[2](self[1](convolved))
        return activated


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    *,
    dilation: int = 1,
    bias: bool = False,
    groups: int = 1,
    convolution: type[nn.Conv2d] = nn.Conv2d,
    activation: Activation = relu,
) -> ConvBnRelu:
    """Size-preserving convolution, batch norm, ReLU or another `activation`.

    `bias` is redundant in front of batch norm; heads whose published counts include it set it.
    """
    padding = dilation * (kernel // 2)
    return ConvBnRelu(
        convolution(
            in_channels,
            out_channels,
            kernel,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        ),
        nn.BatchNorm2d(out_channels),
        activation(),
    )


def starting_at_zero(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution and batch norm whose weight starts at zero: at first it adds its bias, 0."""
    norm = nn.BatchNorm2d(out_channels)
    nn.init.zeros_(norm.weight)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), norm)


class SeparableConvBnRelu(nn.Sequential):
    """A 3x3 convolution of each channel, then a 1x1 one, each with batch norm and ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dilation: int = 1,
        convolution: type[nn.Conv2d] = nn.Conv2d,
    ) -> None:
        super().__init__(
            conv_bn_relu(
                in_channels,
                in_channels,
                3,
                dilation=dilation,
                convolution=convolution,
                groups=in_channels,
            ),
            conv_bn_relu(in_channels, out_channels),
        )


class VisibleTapsConv2d(nn.Conv2d):
    """A size-preserving 3x3 convolution without the taps that meet zero padding at every position.

    Where the dilation reaches the height (width) of the map, the outer rows (columns) are such.
    """

    def forward(self, x: Tensor) -> Tensor:
        dilation = self.dilation[0]
        outside = [dilation >= size for size in x.shape[-2:]]
        rows, columns = (slice(1, 2) if out else slice(None) for out in outside)
        padding = [0 if out else dilation for out in outside]
        weight = self.weight[:, :, rows, columns]
        return F.conv2d(
            x, weight, self.bias, padding=padding, dilation=dilation, groups=self.groups
        )


def atrous_branches(
    channels: int,
    width: int,
    dilations: Sequence[int],
    implementation: Implementation,
    *,
    bias: bool = False,
    separable: bool = False,
    activation: Activation = relu,
) -> nn.ModuleList:
    """One 3x3 convolution, batch norm and ReLU for each dilation, all on the same map.

    With `separable` each is a `SeparableConvBnRelu`, which has no other activation and no bias.
    Raises ValueError unless there are dilations, all positive.
    """
    if not dilations or min(dilations) < 1:
        raise ValueError(f"dilations must be one or more positive, got {list(dilations)}")
    fast = checked_implementation(implementation) == "fast"
    convolution = VisibleTapsConv2d if fast else nn.Conv2d
    if separable:
        return nn.ModuleList(
            SeparableConvBnRelu(channels, width, dilation=d, convolution=convolution)
            for d in dilations
        )
    return nn.ModuleList(
        conv_bn_relu(
            channels,
            width,
            3,
            dilation=d,
            bias=bias,
            convolution=convolution,
            activation=activation,
        )
        for d in dilations
    )


class ConvOverConcat(TwoForms):
    """relu(bn(W * [x_1, ..., x_P])) of P maps (N, C_p, h, w): (N, width, h, w).

    The fast form sums the convolutions of the parts, W = [W_1, ..., W_P], and so never holds a
    copy of all of them. It pays where a part is large, such as the backbone's last stage.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        kernel: int,
        implementation: Implementation,
        *,
        bias: bool = False,
        activation: Activation = relu,
    ) -> None:
        super().__init__(implementation)
        self.channels = tuple(channels)
        self.fuse = conv_bn_relu(
            sum(self.channels), width, kernel, bias=bias, activation=activation
        )

    def _fast(self, *parts: Tensor) -> Tensor:
        convolution = self.fuse.convolution
        first, *others = torch.split(convolution.weight, list(self.channels), dim=1)
        padding = convolution.kernel_size[0] // 2
        total = F.conv2d(parts[0], first, convolution.bias, padding=padding)
        for part, weight in zip(parts[1:], others, strict=True):
            total += F.conv2d(part, weight, padding=padding)
        return self.fuse.activate(total)

    def _reference(self, *parts: Tensor) -> Tensor:
        fused: Tensor = self.fuse(torch.cat(parts, dim=1))
        return fused


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """No autocast on the device of `x`; some devices (meta) have none to switch off."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


class ReducedContext(nn.Module, Generic[Inner]):
    """relu(bn(F [attention(x), x])) of x = relu(bn(W * layer4)): (N, C, h, w) -> (N, width, h, w).

    W is 3x3 and F 1x1, both with or without `bias`; `attention` keeps the shape of x.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        attention: Inner,
        implementation: Implementation,
        *,
        bias: bool,
    ) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(channels, width, 3, bias=bias)
        self.attention = attention
        self.fuse = ConvOverConcat([width, width], width, 1, implementation, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        x = self.reduce(features)
        fused: Tensor = self.fuse(self.attention(x), x)
        return fused


class RefinedContext(nn.Module, Generic[Inner]):
    """y = relu(bn(R * attention(x))) of x = relu(bn(W * layer4)): (N, C, h, w) -> (N, width, h, w).

    With `concat_input` relu(bn(V * [layer4, y])). W, R and V are 3x3; `attention` keeps the shape
    of x, which has `inner` channels, as many as y unless given.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        attention: Inner,
        implementation: Implementation,
        *,
        inner: int | None = None,
        concat_input: bool = True,
        activation: Activation = relu,
    ) -> None:
        super().__init__()
        inner = width if inner is None else inner
        self.reduce = conv_bn_relu(channels, inner, 3, activation=activation)
        self.attention = attention
        self.refine = conv_bn_relu(inner, width, 3, activation=activation)
        self.fuse = (
            ConvOverConcat([channels, width], width, 3, implementation, activation=activation)
            if concat_input
            else None
        )

    def forward(self, features: Tensor) -> Tensor:
        refined: Tensor = self.refine(self.attention(self.reduce(features)))
        return refined if self.fuse is None else self.fuse(features, refined)


def resize_like(x: Tensor, reference: Tensor, *, align_corners: bool = False) -> Tensor:
    """`x` (N, C, a, b) resized to the height and width of `reference` (N, C', h, w)."""
    size = reference.shape[-2:]
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


class PixelClassifier(nn.Sequential):
    """Dropout of whole channels and a 1x1 convolution: (N, C, h, w) -> (N, K, h, w) logits."""

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__(nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, 1))


class PixelBranch(nn.Sequential):
    """A small FCN, 3x3 convolution and classifier: (N, C, h, w) -> (N, K, h, w) logits.

    `width` is half the input's unless given: the published 512 of 1024 for the wide ResNets. Of
    the published networks on HRNet some have a `kernel` of 1.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        width: int | None = None,
        kernel: int = 3,
        dropout: float = 0.1,
    ) -> None:
        width = width if width is not None else max(1, channels // 2)
        super().__init__(
            conv_bn_relu(channels, width, kernel), PixelClassifier(width, num_classes, dropout)
        )


class AuxiliaryBranch(nn.Module):
    """Supervision of an earlier stage: {"aux": (N, K, h, w) logits} in training, {} otherwise."""

    def __init__(
        self, channels: int, num_classes: int, *, width: int | None = None, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.branch = PixelBranch(channels, num_classes, width=width, dropout=dropout)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"aux": self.branch(x)} if self.training else {}


class PooledBranch(nn.Module):
    """Average over a grid of bins x bins cells, then a 1x1 convolution with batch norm and ReLU.

    (N, C, h, w) -> (N, width, bins, bins). Maps smaller than the grid are allowed: cells overlap.
    Raises ValueError in training when batch norm would see a single value per channel.
    """

    def __init__(self, channels: int, width: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.transform = conv_bn_relu(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        cells = F.adaptive_avg_pool2d(x, self.bins)
        self._check_batch(cells)
        transformed: Tensor = self.transform(cells)
        return transformed

    def _check_batch(self, cells: Tensor) -> None:
        norm = self.transform.norm
        # Synchronised batch norm has the other processes' images too, and reports its own error.
        if not norm.training or isinstance(norm, nn.SyncBatchNorm):
            return
        if cells.shape[0] * self.bins**2 == 1:
            raise ValueError(
                "batch norm over one value: a branch pooled to 1x1 cannot be trained on a batch "
                "of 1 image; use a batch of at least 2 (drop the last, incomplete batch)"
            )


class Layer4Head(ContextHead):
    """A head with one context module, supervised on `layer3` as all heads are.

    The module is called with `layer4` unless `context_inputs` says otherwise.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {"aux": 0.4}

    def __init__(
        self,
        context: nn.Module,
        channels: Channels,
        num_classes: int,
        *,
        width: int,
        aux_width: int | None,
        dropout: float,
    ) -> None:
        """`context` makes `width` channels of the `channels.layer4` that it is given."""
        super().__init__()
        self.context = context
        self.classifier = PixelClassifier(width, num_classes, dropout)
        self.auxiliary = AuxiliaryBranch(
            channels.layer3, num_classes, width=aux_width, dropout=dropout
        )

    def forward(self, features: Features) -> HeadOutput:
        pixels = self.context(*self.context_inputs(features))  # (N, width, h, w)
        aux = self.auxiliary(features.layer3)
        return HeadOutput(self.classifier(pixels), pixel_aux=aux, image_aux={})
