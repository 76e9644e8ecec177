"""Expectation-maximisation attention (EMANet): the map rebuilt from a few bases.

Source: Li et al., ICCV 2019, arXiv:1907.13426, sections 3 and 4.1, and the authors' code.
    x = relu(bn(W * layer4)),   f_i = P x_i,   mu^0 = the running bases
    stage t = 1 .. T:   z_ik = softmax_k(f_i . mu_k^(t-1))                      expectation
                        mu_k^t = unit(sum_i z_ik f_i / sum_i z_ik)              maximisation
    r_i = sum_k z_ik mu_k^T,   s_i = relu(x_i + bn(U relu(r_i))),   y = relu(bn(R * s))
Ours: i runs over the pixels of one image; W and R are 3x3, P and U 1x1; K = `bases`, T = `stages`,
m = `momentum`; unit divides by the Euclidean norm. The running bases are a buffer: a pass in
training makes m mu + (1 - m) (mean of mu^T over the images of all processes) of them. Where a batch
is computed in parts, each part is a pass.
As in the authors' code nothing is learned through the stages: z and mu are made without gradients,
so that P, which nothing else sees, keeps its random start. It is a buffer here.
Departs: their code adds 1e-6 to norms and sums. With `concat_input`, the form of mmsegmentation,
relu(bn(V * [layer4, y])), V 3x3, takes the place of y.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.attention import as_map
from heads.blocks import Layer4Head, RefinedContext, TwoForms, relu
from heads.interface import Attended, Averaged, Channels, Features, Implementation

COMPOSED = (
    "How alike all pixels j are to this one, i, in their bases: "
    "sum over k of z_ik z_jk / sum_j z_jk; sum 1"
)
BASES = (
    "Weights z of the bases that the pixel is rebuilt from; sum 1. A base is where its pixels are: "
    "z over its sum over the map"
)


class BasesOfMap(TwoForms, Averaged):
    """r_i = sum_k z_ik mu_k^T: (N, C, h, w) -> (N, C, h, w), without gradients.

    The fast form never makes f: f_i . mu_k is x_i . (P^T mu_k), and sum_i z_ik f_i is
    P (sum_i z_ik x_i), so that P meets K bases instead of all pixels. Nor does it divide by the sum
    of z_ik, which the norm takes out again.
    """

    running: Tensor  # (C, K)
    projection: Tensor  # P: (C, C)
    offset: Tensor  # of P: (C,)

    def __init__(
        self,
        channels: int,
        bases: int,
        stages: int,
        momentum: float,
        implementation: Implementation,
    ) -> None:
        super().__init__(implementation)
        if stages < 1:
            raise ValueError(f"stages must be 1 or more, got {stages}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in 0 .. 1, got {momentum}")
        self.stages = stages
        self.momentum = momentum
        start = torch.randn(channels, bases) * math.sqrt(2 / bases)
        self.register_buffer("running", F.normalize(start, dim=0))
        deviation = math.sqrt(2 / channels)
        self.register_buffer("projection", torch.randn(channels, channels) * deviation)
        self.register_buffer("offset", torch.zeros(channels))

    def assignments(self, x: Tensor) -> Tensor:
        """z_ik after the last stage: (N, K, h w), of sum 1 over k."""
        with torch.no_grad():
            return _stages_without_map(self, x)[0]

    def _fast(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            z, mu = _stages_without_map(self, x)
            self._remember(mu)
            return as_map(torch.bmm(mu, z), x)

    def _reference(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            f = F.conv2d(x, self.projection[:, :, None, None], self.offset).flatten(2)
            mu = self.running.expand(x.shape[0], -1, -1)  # (N, C, K)
            for _ in range(self.stages):
                z = torch.einsum("nci,nck->nki", f, mu).softmax(dim=1)  # over bases, per pixel
                share = F.normalize(z, p=1, dim=2)  # over pixels, per base
                mu = F.normalize(torch.einsum("nci,nki->nck", f, share), dim=1)
            self._remember(mu)
            return as_map(torch.einsum("nck,nki->nci", mu, z), x)

    def _remember(self, mu: Tensor) -> None:
        if self.training:
            mean = self.average(mu.to(self.running.dtype).mean(dim=0))
            self.running.lerp_(mean, 1 - self.momentum)


def _stages_without_map(bases: BasesOfMap, x: Tensor) -> tuple[Tensor, Tensor]:
    """z (N, K, h w) and mu^T (N, C, K) by x itself."""
    pixels = x.flatten(2)  # (N, C, h w)
    mu = bases.running.expand(x.shape[0], -1, -1)  # (N, C, K)
    for _ in range(bases.stages):
        keys = torch.einsum("oc,nok->nkc", bases.projection, mu)
        constant = torch.einsum("o,nok->nk", bases.offset, mu).unsqueeze(2)
        z = torch.baddbmm(constant, keys, pixels).softmax(dim=1)  # over bases, per pixel
        sums = torch.bmm(pixels, z.transpose(1, 2))  # (N, C, K)
        counts = torch.einsum("o,nki->nok", bases.offset, z)
        mu = F.normalize(torch.einsum("oc,nck->nok", bases.projection, sums) + counts, dim=1)
    return z, mu


class ExpectationMaximization(nn.Module):
    """relu(x + bn(U relu(r))): (N, C, h, w) -> (N, C, h, w)."""

    def __init__(self, channels: int, bases: BasesOfMap) -> None:
        super().__init__()
        self.bases = bases
        self.output = nn.Sequential(
            relu(), nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        rebuilt: Tensor = self.output(self.bases(x))
        return F.relu(x + rebuilt)


class EMANetHead(Layer4Head):
    """`inner_channels` is the width of the map that is rebuilt, C above."""

    context: RefinedContext[ExpectationMaximization]

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 256,
        inner_channels: int = 512,
        bases: int = 64,
        stages: int = 3,
        momentum: float = 0.9,
        concat_input: bool = False,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        found = BasesOfMap(inner_channels, bases, stages, momentum, implementation)
        context = RefinedContext(
            channels.layer4,
            width,
            ExpectationMaximization(inner_channels, found),
            implementation,
            inner=inner_channels,
            concat_input=concat_input,
        )
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )

    def _attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        x = self.context.reduce(features.layer4)
        z = self.context.attention.bases.assignments(x)  # (N, K, h w)
        places = as_map(F.normalize(z, p=1, dim=2), x)  # (N, K, h, w)
        own = as_map(z, x)[:, :, *pixel]  # (N, K)
        alike = torch.einsum("nk,nkhw->nhw", own, places)
        return {
            "attention": Attended(alike, COMPOSED),
            "bases": Attended(own, BASES, "base", places),
        }
