"""Disentangled non-local block (DNL): whitened pairs and a unary term, each with its own softmax.

Source: Yin et al., ECCV 2020, arXiv:2006.06668, section 3.
    x = relu(bn(W * layer4)),   q_i = theta(x_i), k_j = phi(x_j), v_j = g(x_j)
    w_ij = softmax_j((q_i - mean q) . (k_j - mean k) / T),   u_j = softmax_j(m . x_j)
    z_i = x_i + bn(U sum_j (w_ij + u_j) v_j)
    y = relu(bn(R * z)),   with V 3x3: relu(bn(V * [layer4, y]))
Ours: means are over the pixels of one image; theta, phi and g are 1x1 convolutions to
`key_channels`, m one to a single map; U is 1x1, its batch norm starts at zero as in the non-local
block; W, R and V are 3x3. T is `temperature`, with `scaled` times the root of `key_channels`.
Departs: the paper prints no T, which is 1 unless told. The head around the block, V with
`concat_input`, is the usual one for segmentation (mmsegmentation). Its published models have
`temperature: 0.05` and are `scaled`; its first releases applied U and batch norm to each of the two
sums, the present one as here.
"""

import math

import torch
from torch import Tensor, nn

from heads.attention import PixelAttention, gather, gather_fast, weights_of
from heads.blocks import Layer4Head, RefinedContext, starting_at_zero
from heads.interface import Attended, Channels, Features, Implementation

PAIRS = "Weights w of the values of all pixels by the whitened pairs; sum 1"
UNARY = "Weights u of the values of all pixels, the same for every pixel; sum 1"
BOTH = "Weights w + u of the values of all pixels, halved; sum 1"


def centred(x: Tensor) -> Tensor:
    """Less its mean over the pixels of each image: (N, C, h, w)."""
    return x - x.mean(dim=(-2, -1), keepdim=True)


class WhitenedAttention(PixelAttention):
    """sum_j softmax_j((q_i - mean q) . (k_j - mean k) / T) v_j: (N, c, h, w).

    The fast form leaves the mean of k alone: its product with q_i is the same for all j, which a
    softmax over j does not see. `temperature` is T.
    """

    def __init__(self, implementation: Implementation, *, temperature: float) -> None:
        super().__init__(implementation)
        self.scale = 1 / temperature

    def row(self, query: Tensor, key: Tensor, pixel: tuple[int, int]) -> Tensor:
        return weights_of(centred(query), centred(key), pixel, self.scale)

    def _reference(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return gather(centred(query), centred(key), value, self.scale)

    def _fast(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return gather_fast(centred(query), key, value, self.scale)


class DisentangledBlock(nn.Module):
    """x + bn(U sum_j (w_ij + u_j) v_j): (N, C, h, w) -> (N, C, h, w)."""

    def __init__(self, channels: int, key_channels: int, attend: PixelAttention) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, key_channels, 1)
        self.phi = nn.Conv2d(channels, key_channels, 1)
        self.g = nn.Conv2d(channels, key_channels, 1)
        self.mask = nn.Conv2d(channels, 1, 1)
        self.attend = attend
        self.output = starting_at_zero(key_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value = self.g(x)  # (N, key_channels, h, w)
        everywhere = torch.einsum("nchw,nhw->nc", value, self.unary(x))[:, :, None, None]
        gathered: Tensor = self.attend(self.theta(x), self.phi(x), value)
        added: Tensor = self.output(gathered + everywhere)
        return x + added

    def unary(self, x: Tensor) -> Tensor:
        """u_j: (N, h, w), of sum 1."""
        scores: Tensor = self.mask(x)
        return scores.flatten(1).softmax(dim=-1).to(scores.dtype).reshape(scores[:, 0].shape)

    def pairs(self, x: Tensor, pixel: tuple[int, int]) -> Tensor:
        """w_ij of the pixel i (row, column) of x: (N, h, w), of sum 1."""
        return self.attend.row(self.theta(x), self.phi(x), pixel)


class DNLNetHead(Layer4Head):
    """`temperature` is positive (ValueError otherwise)."""

    context: RefinedContext[DisentangledBlock]

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        key_channels: int = 256,
        temperature: float = 1.0,
        scaled: bool = False,
        concat_input: bool = True,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        root = math.sqrt(key_channels) if scaled else 1.0
        attend = WhitenedAttention(implementation, temperature=temperature * root)
        context = RefinedContext(
            channels.layer4,
            width,
            DisentangledBlock(width, key_channels, attend),
            implementation,
            concat_input=concat_input,
        )
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )

    def _attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        block, x = self.context.attention, self.context.reduce(features.layer4)
        pairs, unary = block.pairs(x, pixel), block.unary(x)
        return {
            "attention": Attended((pairs + unary) / 2, BOTH),
            "pairs": Attended(pairs, PAIRS),
            "unary": Attended(unary, UNARY),
        }
