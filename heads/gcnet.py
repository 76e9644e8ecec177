"""Global context (GCNet): one context for all pixels, gathered by one map of weights.

Source: Cao et al., ICCV Workshops 2019, arXiv:1904.11492, sections 3.2 and 3.3.
    x = relu(bn(W * layer4)),   a_j = softmax_j(k . x_j),   c = sum_j a_j x_j
    z_i = x_i + V_2 relu(ln(V_1 c)),   y = relu(bn(R * z)),   with F 3x3: relu(bn(F * [layer4, y]))
Ours: j runs over the h w pixels; V_1 reduces to `bottleneck` channels, V_2 back, ln is layer
normalisation over these; V_2 starts at zero as in the authors' code, so that z = x at first; W, R
and F are 3x3.
Departs: the paper's block is in a backbone, with a sixteenth of its channels as bottleneck (a
quarter in its best networks). The head around it, F with `concat_input`, and the quarter are those
of the usual head for segmentation (mmsegmentation).
"""

import torch
from torch import Tensor, nn

from heads.blocks import Layer4Head, RefinedContext, checked_implementation
from heads.interface import Attended, Channels, Features, Implementation


class GlobalContext(nn.Module):
    """x_i + V_2 relu(ln(V_1 sum_j a_j x_j)): (N, C, h, w) -> (N, C, h, w)."""

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.key = nn.Conv2d(channels, 1, 1)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, bottleneck, 1),
            nn.LayerNorm([bottleneck, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(bottleneck, channels, 1),
        )
        for parameter in self.transform[3].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        context = torch.einsum("nchw,nhw->nc", x, self.weights(x))[:, :, None, None]
        added: Tensor = self.transform(context)  # (N, C, 1, 1)
        return x + added

    def weights(self, x: Tensor) -> Tensor:
        """a_j of all pixels: (N, h, w), of sum 1."""
        scores: Tensor = self.key(x)
        weights = scores.flatten(1).softmax(dim=-1).to(x.dtype)  # over all pixels of an image
        return weights.reshape(x.shape[0], *x.shape[-2:])


class GCNetHead(Layer4Head):
    """`implementation` makes a difference with `concat_input` only: its parts are not copied."""

    context: RefinedContext[GlobalContext]

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        bottleneck: int = 128,
        concat_input: bool = True,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        checked_implementation(implementation)
        context = RefinedContext(
            channels.layer4,
            width,
            GlobalContext(width, bottleneck),
            implementation,
            concat_input=concat_input,
        )
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )

    def _attend(self, features: Features, _pixel: tuple[int, int]) -> dict[str, Attended]:
        weights = self.context.attention.weights(self.context.reduce(features.layer4))
        meaning = "Weights of all pixels in the one context that is added to every pixel; sum 1"
        return {"attention": Attended(weights, meaning)}
