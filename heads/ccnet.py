"""Criss-cross attention (CCNet): every pixel gathers its row and its column, twice.

Source: Huang et al., ICCV 2019, arXiv:1811.11721, section 3.
    H = relu(bn(W * X)),   Q_u = query(H_u), K_i = key(H_i), V_i = value(H_i)
    a_ui = softmax_i(Q_u . K_i),   H'_u = gamma sum_i a_ui V_i + H_u
    y = relu(bn(F * [X, relu(bn(G * H'))])),   H' after `recurrence` rounds with shared weights
Ours: X is layer4, (N, C4, h, w); i runs over the h + w - 1 pixels of the row and the column of u;
query, key and value are 1x1 convolutions, W, G and F are 3x3; `key_channels` is the width of Q and
K, in the paper an eighth of `width`. Two rounds connect any two pixels, by way of a corner.
Departs: gamma, which starts at 0, is in the authors' code and not in the paper. The category
consistent loss of the extended paper (2020) is left out, as in the first one. The authors' code has
leaky ReLU of slope 0.01, that of in-place batch norm, in place of every ReLU: `release: authors`.
"""

import torch
from torch import Tensor, nn

from heads.blocks import Layer4Head, RefinedContext, TwoForms, abn_activation
from heads.interface import Attended, Channels, Features, Implementation, Release

CROSS = "Weights of the values of its row and its column in this round; sum 1"
COMPOSED = (
    "Weights of all pixels by way of the pixels in between, the product of the rounds; sum 1. Each "
    "round multiplies what it gathers by gamma = {gate:.3g} and adds it to what it was given, "
    "before the next takes its values"
)


def cross_weights(column: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Scores with the column (N, h, w, h) and the row (N, h, w, w) as weights that sum to 1.

    A pixel is in its column and in its row: its column's copy of it, the same place in every
    column, weighs 0.
    """
    height = column.shape[1]
    scores = torch.cat([column, row], dim=-1)  # (N, h, w, h + w)
    own = torch.eye(height, scores.shape[-1], dtype=torch.bool, device=scores.device)
    scores.masked_fill_(own.unsqueeze(1), -torch.inf)
    weights = scores.softmax(dim=-1)  # over the cross, per pixel
    return weights[..., :height], weights[..., height:]


def passed_on(weights: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Weights (N, h, w) of pixels, each handed on to the pixels of its cross: (N, h, w).

    `column` (N, h, w, h) and `row` (N, h, w, w) are as made by `cross_weights`; the sum stays.
    """
    down = torch.einsum("nyx,nyxz->nzx", weights, column)
    across = torch.einsum("nyx,nyxz->nyz", weights, row)
    return down + across


class RecurrentCrissCross(TwoForms):
    """`recurrence` rounds of criss-cross attention: (N, C, h, w) -> (N, C, h, w).

    The fast form keeps each pixel's channels next to each other from the first round to the last,
    so that a product reads every row in place, and every column where N is 1. In the usual layout
    rows and columns are copied for each product.
    """

    def __init__(
        self, channels: int, key_channels: int, recurrence: int, implementation: Implementation
    ) -> None:
        super().__init__(implementation)
        if recurrence < 1:
            raise ValueError(f"recurrence must be at least 1, got {recurrence}")
        self.recurrence = recurrence
        self.query = nn.Conv2d(channels, key_channels, 1)
        self.key = nn.Conv2d(channels, key_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Parameter(torch.zeros(()))  # the authors' gamma

    def _fast(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for _ in range(self.recurrence):
            x = x + self.gate * self._gather_channels_last(x)
        return x

    def _gather_channels_last(self, x: Tensor) -> Tensor:
        layers = (self.query, self.key, self.value)
        query, key, value = (layer(x).permute(0, 2, 3, 1) for layer in layers)  # (N, h, w, C)
        column = torch.einsum("nyxd,nzxd->nyxz", query, key)
        row = torch.einsum("nyxd,nyzd->nyxz", query, key)
        column, row = cross_weights(column, row)
        gathered = torch.einsum("nyxz,nzxc->nyxc", column, value)
        gathered += torch.einsum("nyxz,nyzc->nyxc", row, value)
        return gathered.permute(0, 3, 1, 2)

    def _reference(self, x: Tensor) -> Tensor:
        for _ in range(self.recurrence):
            x = x + self.gate * self._gather(x)
        return x

    @staticmethod
    def weights(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Of the column (N, h, w, h) and the row (N, h, w, w) of every pixel."""
        column = torch.einsum("ncyx,nczx->nyxz", query, key)
        row = torch.einsum("ncyx,ncyz->nyxz", query, key)
        return cross_weights(column, row)

    def rounds(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """`weights` of each round, of what the rounds before have made of x."""
        each = []
        for _ in range(self.recurrence):
            each.append(self.weights(self.query(x), self.key(x)))
            x = x + self.gate * self._gather(x)
        return each

    def _gather(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        column, row = self.weights(query, key)
        from_column = torch.einsum("nyxz,nczx->ncyx", column, value)
        from_row = torch.einsum("nyxz,ncyz->ncyx", row, value)
        return from_column + from_row


class CCNetHead(Layer4Head):
    context: RefinedContext[RecurrentCrissCross]

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        key_channels: int = 64,
        recurrence: int = 2,
        release: Release = "paper",
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        attention = RecurrentCrissCross(width, key_channels, recurrence, implementation)
        activation = abn_activation(release)
        context = RefinedContext(
            channels.layer4, width, attention, implementation, activation=activation
        )
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )

    def _attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        rounds = self.context.attention.rounds(self.context.reduce(features.layer4))
        start = torch.zeros_like(features.layer4[:, 0])  # (N, h, w)
        start[:, *pixel] = 1
        composed = start
        for column, row in reversed(rounds):
            composed = passed_on(composed, column, row)
        crosses = {
            f"round-{number}": Attended(passed_on(start, *weights), CROSS)
            for number, weights in enumerate(rounds, 1)
        }
        meaning = COMPOSED.format(gate=self.context.attention.gate.item())
        return {"attention": Attended(composed, meaning), **crosses}
