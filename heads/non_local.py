"""Non-local block: dense attention between pixels, added to the map.

Source: Wang et al., CVPR 2018, arXiv:1711.07971, sections 3.1 to 3.3.
    x = relu(bn(W * layer4)),   q_i = theta(x_i), k_j = phi(x_j), v_j = g(x_j)
    embedded_gaussian: w_ij = softmax_j(q_i . k_j),      dot_product: w_ij = q_i . k_j / (h w)
    z_i = x_i + bn(U sum_j w_ij v_j),   y = relu(bn(R * z)),   with V 3x3: relu(bn(V * [layer4, y]))
Ours: theta, phi and g are 1x1 convolutions to `key_channels`, half the width as in section 3.3; U
is 1x1, and its batch norm starts at zero, so that z = x at first (section 4.1); W, R and V are 3x3.
With `scaled`, q_i . k_j is divided by the root of `key_channels`, as later attention is.
Departs: the paper puts its block into a backbone for video. The head around it, V with
`concat_input` and the auxiliary branch, is the usual one for segmentation (mmsegmentation, whose
published models are `scaled`).
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from heads.attention import DenseAttention, PixelAttention, as_map, only
from heads.blocks import Layer4Head, RefinedContext, starting_at_zero
from heads.interface import Attended, Channels, Features, Implementation

SOFTMAX = "Weights of the values of all pixels; sum 1"
PRODUCTS = (
    "Size of the weights of the values of all pixels, whatever their sign, over its sum; sum 1"
)

Pairwise = Literal["embedded_gaussian", "dot_product"]


class DotProductAttention(PixelAttention):
    """sum_j (q_i . k_j) v_j / (h w): (N, d, h, w), (N, d, h, w), (N, c, h, w) -> (N, c, h, w).

    Without a softmax the sum may be taken over j first. The fast form does that where it is less
    work: where h w (d + c) > 2 d c, which is at more than d pixels where c = d.
    """

    def row(self, query: Tensor, key: Tensor, pixel: tuple[int, int]) -> Tensor:
        """|q_i . k_j| of the pixel i (row, column) over its sum over j: (N, h, w)."""
        sizes = torch.einsum("ndyx,ndhw->nhw", only(query, pixel), key).abs()
        return sizes / sizes.sum(dim=(-2, -1), keepdim=True)

    def _fast(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        d, c = query.shape[1], value.shape[1]
        if pixels_of(key) * (d + c) <= 2 * d * c:
            return all_pairs(query, key, value)
        mixed = torch.einsum("ncj,ndj->ncd", value.flatten(2) / pixels_of(key), key.flatten(2))
        return as_map(torch.bmm(mixed, query.flatten(2)), query)

    def _reference(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return all_pairs(query, key, value)


def all_pairs(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """By the matrix of all pairs: (N, c, h, w)."""
    weights = torch.einsum("ndi,ndj->nij", query.flatten(2), key.flatten(2)) / pixels_of(key)
    return as_map(torch.einsum("nij,ncj->nci", weights, value.flatten(2)), query)


def pixels_of(x: Tensor) -> int:
    """h w of a map."""
    return x.shape[-2] * x.shape[-1]


def pair_attention(
    pairwise: Pairwise, scaled: bool, implementation: Implementation
) -> PixelAttention:
    """ValueError for an unknown `pairwise`, and for a product that is to be `scaled`."""
    if pairwise not in get_args(Pairwise):
        raise ValueError(f"unknown pairwise {pairwise!r}; allowed: {', '.join(get_args(Pairwise))}")
    if pairwise == "embedded_gaussian":
        return DenseAttention(implementation, scale=None if scaled else 1.0)
    if scaled:
        raise ValueError("scaled is of embedded_gaussian; dot_product is divided by h w")
    return DotProductAttention(implementation)


class NonLocalBlock(nn.Module):
    """x + bn(U sum_j w_ij v_j): (N, C, h, w) -> (N, C, h, w). `attend` makes w and the sum."""

    def __init__(self, channels: int, key_channels: int, attend: PixelAttention) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, key_channels, 1)
        self.phi = nn.Conv2d(channels, key_channels, 1)
        self.g = nn.Conv2d(channels, key_channels, 1)
        self.attend = attend
        self.output = starting_at_zero(key_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        gathered: Tensor = self.output(self.attend(self.theta(x), self.phi(x), self.g(x)))
        return x + gathered

    def row(self, x: Tensor, pixel: tuple[int, int]) -> Tensor:
        """w_ij of the pixel i (row, column) of x: (N, h, w)."""
        return self.attend.row(self.theta(x), self.phi(x), pixel)


class NonLocalHead(Layer4Head):
    """`scaled` is refused for `dot_product`, an unknown `pairwise` always (ValueError)."""

    context: RefinedContext[NonLocalBlock]

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        key_channels: int = 256,
        pairwise: Pairwise = "embedded_gaussian",
        scaled: bool = False,
        concat_input: bool = True,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        self.softmax = pairwise == "embedded_gaussian"
        block = NonLocalBlock(width, key_channels, pair_attention(pairwise, scaled, implementation))
        context = RefinedContext(
            channels.layer4, width, block, implementation, concat_input=concat_input
        )
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )

    def _attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        row = self.context.attention.row(self.context.reduce(features.layer4), pixel)
        return {"attention": Attended(row, SOFTMAX if self.softmax else PRODUCTS)}
