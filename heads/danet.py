"""Dual attention (DANet): attention between pixels beside attention between channels.

Source: Fu et al., CVPR 2019, arXiv:1809.02983, section 3, and the authors' code.
    A = relu(bn(W * X)), one W for each branch,   G_ij = A_i . A_j
    position: s_ij = softmax_j(B_i . C_j),          E_i = alpha sum_j s_ij D_j + A_i
    channel:  x_ij = softmax_j(max_k G_ik - G_ij),  E_i = beta sum_j x_ij A_j + A_i
    y = relu(bn(U * E_position)) + relu(bn(V * E_channel))
Ours: X is layer4, (N, C4, h, w); i, j are pixels in the position branch, channels in the other.
B, C, D are 1x1 convolutions of A; B and C have `key_channels`, published as an eighth of `width`.
W, U and V are 3x3. `gate` is alpha or beta, 0 at the start. With both branches each has a
classifier of its own in training, whose loss has weight 1. With one branch, as in the paper's
ablation, this would be the main loss again and is left out.
Departs: the paper prints softmax_j(G_ij); its authors' code has the opposite sign, and so have we.
Supervision of layer3, which the authors' released training does not have, as in every head here.
"""

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from heads.attention import DenseAttention
from heads.blocks import (
    Layer4Head,
    PixelClassifier,
    TwoForms,
    conv_bn_relu,
    full_precision,
)
from heads.interface import Attended, Channels, Features, HeadOutput, Implementation


def products_of_channels(x: Tensor) -> Tensor:
    """(N, C, h w) -> (N, C, C), in float32 or wider.

    Sums over all pixels grow with the map, but the softmax weighs differences of about 1: bfloat16
    would round these away, and float16 overflows.
    """
    with full_precision(x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return wide @ wide.transpose(1, 2)


class PositionAttention(nn.Module):
    """Attention between all pairs of pixels: (N, C, h, w) -> (N, C, h, w)."""

    def __init__(self, channels: int, key_channels: int, implementation: Implementation) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, key_channels, 1)
        self.key = nn.Conv2d(channels, key_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.attend = DenseAttention(implementation, scale=1.0)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        gathered: Tensor = self.attend(self.query(x), self.key(x), self.value(x))
        return x + self.gate * gathered

    def row(self, x: Tensor, pixel: tuple[int, int]) -> Tensor:
        """s_ij of the pixel i (row, column) of x: (N, h, w), of sum 1."""
        return self.attend.row(self.query(x), self.key(x), pixel)


class ChannelAttention(TwoForms):
    """Attention between all pairs of channels: (N, C, h, w) -> (N, C, h, w).

    The fast form gates the (C, C) weights instead of the map and adds the map within the product.
    It subtracts no maximum: softmax does, and is the same for it.
    """

    def __init__(self, implementation: Implementation) -> None:
        super().__init__(implementation)
        self.gate = nn.Parameter(torch.zeros(()))

    def _fast(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)  # (N, C, h w)
        attention = (-products_of_channels(pixels)).softmax(dim=-1)  # over channels, per channel
        gated = (self.gate * attention).to(x.dtype)
        return torch.baddbmm(pixels, gated, pixels).reshape(x.shape)

    def _reference(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)  # (N, C, h w)
        energy = products_of_channels(pixels)
        distance = energy.amax(dim=-1, keepdim=True) - energy
        attention = distance.softmax(dim=-1)  # over channels, per channel
        gathered = torch.bmm(attention.to(x.dtype), pixels).reshape(x.shape)
        return x + self.gate * gathered


class AttentionBranch(nn.Module):
    """Reduction, attention and a convolution: (N, C, h, w) -> (N, width, h, w)."""

    def __init__(self, channels: int, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(channels, width, 3)
        self.attention = attention
        self.refine = conv_bn_relu(width, width, 3)

    def forward(self, features: Tensor) -> Tensor:
        refined: Tensor = self.refine(self.attention(self.reduce(features)))
        return refined


class DualAttention(nn.Module):
    """(N, C, h, w) -> (N, width, h, w). `attentions` names the branches."""

    def __init__(self, channels: int, width: int, attentions: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {name: AttentionBranch(channels, width, part) for name, part in attentions.items()}
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.fuse(self.attended(features))

    def attended(self, features: Tensor) -> dict[str, Tensor]:
        """Each branch's map, (N, width, h, w)."""
        return {name: branch(features) for name, branch in self.branches.items()}

    @staticmethod
    def fuse(attended: Mapping[str, Tensor]) -> Tensor:
        total, *others = attended.values()
        for other in others:
            total = total + other
        return total


class DANetHead(Layer4Head):
    """`position` and `channel` choose the branches (ValueError without any)."""

    loss_weights: ClassVar[Mapping[str, float]] = {"aux": 0.4, "position": 1.0, "channel": 1.0}

    context: DualAttention

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        key_channels: int = 64,
        position: bool = True,
        channel: bool = True,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        if not position and not channel:
            raise ValueError("one of position and channel must be true")
        attentions: dict[str, nn.Module] = {}
        if position:
            attentions["position"] = PositionAttention(width, key_channels, implementation)
        if channel:
            attentions["channel"] = ChannelAttention(implementation)
        context = DualAttention(channels.layer4, width, attentions)
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )
        supervised = attentions if len(attentions) > 1 else {}
        self.branch_classifiers = nn.ModuleDict(
            {name: PixelClassifier(width, num_classes, dropout) for name in supervised}
        )
        # The terms depend on the options, so the instance narrows what the class declares.
        self.loss_weights = {  # type: ignore[misc]
            "aux": 0.4,
            **dict.fromkeys(supervised, 1.0),
        }

    def forward(self, features: Features) -> HeadOutput:
        # In two steps because the branches' classifiers need the maps inside the context module.
        attended = self.context.attended(features.layer4)
        logits = self.classifier(self.context.fuse(attended))
        aux = {**self.auxiliary(features.layer3), **self._classified(attended)}
        return HeadOutput(logits, pixel_aux=aux, image_aux={})

    def _attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        # Attention between channels is one matrix an image, with no place in it for a pixel.
        if "position" not in self.context.branches:
            return {}
        branch = cast(AttentionBranch, self.context.branches["position"])
        attention = cast(PositionAttention, branch.attention)
        row = attention.row(branch.reduce(features.layer4), pixel)
        meaning = (
            "Weights of the values of all pixels in the position branch, whose sum is multiplied "
            f"by alpha = {attention.gate.item():.3g} and added to the pixel; sum 1"
        )
        return {"attention": Attended(row, meaning)}

    def _classified(self, attended: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.training:
            return {}
        return {name: layer(attended[name]) for name, layer in self.branch_classifiers.items()}
