"""Interlaced sparse self-attention (ISA): gather from far pixels, then from near ones.

Source: Huang et al., arXiv:1907.12273, section 3, with the layers of the authors' code.
    x = relu(bn(W * layer4)),   (h, w) = (Q_h P, Q_w P)
    far groups:  P P of them; group (p, q) has the Q_h Q_w pixels (i P + p, j P + q) of all i, j
    near groups: Q_h Q_w of them; group (i, j) has the P P pixels (i P + p, j P + q) of all p, q
    A(x)_i = relu(bn(U sum_j softmax_j(query(x_i) . key(x_j) / sqrt(d)) V x_j)),   j in i's group
    y = relu(bn(F [A_near(A_far(x)), x]))
Ours: P is `down_factor`, 8 in the paper; query and key are two times 1x1 convolution, batch norm
and ReLU, d is `key_channels`; U, V and F are 1x1. Any pixel reaches any other in two steps.
Where P does not divide the map, which the paper leaves open, we do as the authors' code: x is
surrounded with zeros up to the next multiple, the odd row below and the odd column on the right.
They are pixels like all others, attended to and part of the batch statistics, until the output
is cropped. Masking them would be another function than the one with published scores.
The authors' code for old versions of torch is built on in-place batch norm, whose ReLU is leaky
(slope 0.01); its branch for torch 1.7 has ReLU, and so have we.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.attention import gather, weights_of
from heads.blocks import Layer4Head, ReducedContext, TwoForms, conv_bn_relu
from heads.interface import Attended, Channels, Features, Implementation

COMPOSED = (
    "Weights of all pixels by way of the pixels of the near group, each with its own far group; "
    "sum 1 with what falls on padding. A convolution and a ReLU lie between the two steps"
)
NEAR = "Weights of the pixels of its near group, in the second step; sum 1 with padding"
FAR = "Weights of the pixels of its far group, in the first step; sum 1 with padding"


class GroupAttention(TwoForms):
    """A: every pixel gathers pixels of its own group, (G, C, a, b) -> (G, C, a, b), G groups.

    Nothing but sums lies between V and U, so the fast form convolves with U V once. That saves one
    convolution of C to C channels on every pixel and costs the product of two C x C matrices.
    Both hold all pairs at once: groups are small, and exported programs take any size.
    """

    def __init__(self, channels: int, key_channels: int, implementation: Implementation) -> None:
        super().__init__(implementation)
        self.query = self._transform(channels, key_channels)
        self.key = self._transform(channels, key_channels)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.output = conv_bn_relu(channels, channels)

    @staticmethod
    def _transform(channels: int, key_channels: int) -> nn.Sequential:
        return nn.Sequential(
            conv_bn_relu(channels, key_channels), conv_bn_relu(key_channels, key_channels)
        )

    def _fast(self, x: Tensor) -> Tensor:
        value = F.conv2d(x, self._value_output())
        return self.output.activate(gather(self.query(x), self.key(x), value))

    def row(self, x: Tensor, pixel: tuple[int, int]) -> Tensor:
        """What the pixel (row, column) of each group weighs its group by: (G, a, b), of sum 1."""
        return weights_of(self.query(x), self.key(x), pixel)

    def _value_output(self) -> Tensor:
        product = self.output.convolution.weight.flatten(1) @ self.value.weight.flatten(1)
        return product[:, :, None, None]

    def _reference(self, x: Tensor) -> Tensor:
        gathered: Tensor = self.output(gather(self.query(x), self.key(x), self.value(x)))
        return gathered


class InterlacedAttention(TwoForms):
    """A_near(A_far(x)): (N, C, h, w) -> (N, C, h, w).

    Both forms bring groups into the batch axis. The fast form also brings channels last, so that
    regrouping moves whole pixels and attention finds its operands in order: no other copies.
    An exported program takes any size only if its sizes are declared multiples of `down_factor`.
    """

    def __init__(
        self, channels: int, key_channels: int, down_factor: int, implementation: Implementation
    ) -> None:
        super().__init__(implementation)
        if down_factor < 1:
            raise ValueError(f"down_factor must be positive, got {down_factor}")
        self.down_factor = down_factor
        self.far = GroupAttention(channels, key_channels, implementation)
        self.near = GroupAttention(channels, key_channels, implementation)

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        margins = self._margins(x)
        if not any(margins):  # padding by nothing would still copy
            return super().forward(x)
        return _cropped(super().forward(F.pad(x, margins)), margins)

    def attended(self, x: Tensor, pixel: tuple[int, int]) -> dict[str, Attended]:
        """What the pixel (row, column) of x, (N, C, h, w), gathers near, far, and in both steps."""
        margins = self._margins(x)
        (i, p), (j, q) = (
            divmod(at + before, self.down_factor)
            for at, before in zip(pixel, (margins[2], margins[0]), strict=True)
        )
        split = self._split(F.pad(x, margins))  # (N, C, i, p, j, q)
        groups = split.permute(0, 3, 5, 1, 2, 4).flatten(0, 2)  # (N p q, C, i, j)
        n, _, rows, _, columns, _ = split.shape
        side = self.down_factor
        far = self.far.row(groups, (i, j)).reshape(n, side, side, rows, columns)
        cell = self.far(groups)[:, :, i, j].reshape(n, side, side, -1).permute(0, 3, 1, 2)
        near = self.near.row(cell, (p, q))  # (N, p, q)
        maps = split.new_zeros(3, n, rows, side, columns, side)
        maps[0] = torch.einsum("npq,npqij->nipjq", near, far)
        maps[1, :, i, :, j] = near
        maps[2, :, :, p, :, q] = far[:, p, q]
        composed, near, far = _cropped(maps.flatten(4, 5).flatten(2, 3), margins)
        return {
            "attention": Attended(composed, COMPOSED),
            "near": Attended(near, NEAR),
            "far": Attended(far, FAR),
        }

    def _margins(self, x: Tensor) -> tuple[int, int, int, int]:
        """Zeros on the left, the right, above and below, up to multiples of `down_factor`."""
        down, right = (-side % self.down_factor for side in x.shape[-2:])
        return right // 2, right - right // 2, down // 2, down - down // 2

    # The comments name the axes: (i, j) is a near group, (p, q) a far one.

    def _fast(self, x: Tensor) -> Tensor:
        split = self._split(x)  # (N, C, i, p, j, q)
        n, _, i, p, j, q = split.shape
        groups = self.far(_pixels_in_order(split.permute(0, 3, 5, 2, 4, 1)))  # (N p q, C, i, j)
        pixels = groups.permute(0, 2, 3, 1).unflatten(0, (n, p, q))  # (N, p, q, i, j, C)
        groups = _pixels_in_order(pixels.permute(0, 3, 4, 1, 2, 5))  # (N i j, C, p, q)
        return _joined(self.near(groups).unflatten(0, (n, i, j)))

    def _reference(self, x: Tensor) -> Tensor:
        split = self._split(x)  # (N, C, i, p, j, q)
        n, _, i, p, j, q = split.shape
        groups = self.far(split.permute(0, 3, 5, 1, 2, 4).flatten(0, 2))  # (N p q, C, i, j)
        regrouped = groups.unflatten(0, (n, p, q)).permute(0, 4, 5, 3, 1, 2)  # (N, i, j, C, p, q)
        return _joined(self.near(regrouped.flatten(0, 2)).unflatten(0, (n, i, j)))

    def _split(self, x: Tensor) -> Tensor:
        """(N, C, i P, j P) -> (N, C, i, P, j, P)."""
        n, channels, height, width = x.shape
        p = self.down_factor
        return x.reshape(n, channels, height // p, p, width // p, p)


def _cropped(x: Tensor, margins: tuple[int, int, int, int]) -> Tensor:
    left, right, top, bottom = margins
    height, width = x.shape[-2:]
    return x[..., top : height - bottom, left : width - right]


def _pixels_in_order(pixels: Tensor) -> Tensor:
    """(N, r, s, a, b, C) -> (N r s, C, a, b), copied into channels-last memory."""
    return pixels.flatten(0, 2).permute(0, 3, 1, 2)


def _joined(groups: Tensor) -> Tensor:
    """(N, i, j, C, p, q) -> (N, C, i p, j q): every pixel back in its place."""
    return groups.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


class ISAHead(Layer4Head):
    context: ReducedContext[InterlacedAttention]

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        key_channels: int = 256,
        down_factor: int = 8,
        aux_width: int | None = None,
        dropout: float = 0.05,
        implementation: Implementation = "fast",
    ) -> None:
        attention = InterlacedAttention(width, key_channels, down_factor, implementation)
        context = ReducedContext(channels.layer4, width, attention, implementation, bias=False)
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )

    def _attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        return self.context.attention.attended(self.context.reduce(features.layer4), pixel)
