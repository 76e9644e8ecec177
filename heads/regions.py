"""Object regions, shared by the heads that relate pixels to them: one soft region for each class.

Source: Yuan et al., ECCV 2020, arXiv:1909.11065, sections 3.2 and 4.2.
    m_ki = softmax_i(s_ki)                          soft object region k, over the pixels i
    f_k = sum_i m_ki x_i                            region representation
    w_ik                                            relation of pixel i and region k, see below
    y_i = rho(sum_k w_ik delta(f_k))                object-contextual representation
Ours: x is (N, C, h, w); s are K coarse maps of class logits, (N, K, h, w); delta and rho are 1x1
convolution, batch norm and ReLU.

In each einsum the left operand has the axis that comes first in the result. So nothing is permuted
in memory, and this takes two thirds of the time of the other order for K = 19 (float32, CPU).
Fused attention kernels want pixels by channels, and are slower than either.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from heads.attention import as_map
from heads.blocks import AuxiliaryBranch, PixelClassifier, conv_bn_relu, resize_like
from heads.interface import Attended, Channels, ContextHead, Features, HeadOutput

Relation = Literal["ocr", "double_attention", "acf"]
DeltaInput = Literal["regions", "pixels"]

COMPOSED: dict[DeltaInput, str] = {
    "regions": (
        "Weights of all pixels in the regions' features that the pixel gathers, sum_k w_ik m_kj; "
        "sum 1. The ReLU of delta acts on each region's features before they are gathered"
    ),
    "pixels": "Weights of all pixels' delta(x_j) in what the pixel gathers, sum_k w_ik m_kj; sum 1",
}
REGIONS = (
    "Relation w_ik of the pixel to the object regions k, one a class; sum 1. A region is where "
    "its class is expected: m_kj over the pixels j, of sum 1"
)


@dataclass(frozen=True)
class RegionScheme:
    """How pixels are related to regions. ValueError for values that are not allowed together.

    `transforms` is the number of layers in phi and in psi. With delta on pixels the values are
    sum_i m_ki delta(x_i): batch norm and ReLU act before the gathering and not after it, which is
    another function of the same parameters. With `ground_truth` the maps are labels, not logits.
    """

    relation: Relation = "ocr"
    transforms: int = 1
    delta_on: DeltaInput = "regions"
    ground_truth: bool = False

    def __post_init__(self) -> None:
        _check_choice("relation", self.relation, get_args(Relation))
        _check_choice("delta_on", self.delta_on, get_args(DeltaInput))
        if self.ground_truth and (self.relation, self.transforms) != ("ocr", 1):
            raise ValueError(
                "ground-truth regions come with their relations to pixels: leave relation and "
                "transforms at their defaults"
            )
        if self.transforms < 1 or (self.transforms > 1 and self.relation != "ocr"):
            raise ValueError(
                f"transforms is {self.transforms}: it must be at least 1, and 1 unless relation is "
                "'ocr', the only one that transforms pixels and regions"
            )


class RegionRelation(nn.Module):
    """w_ik for pixels x (N, C, h, w), regions f (N, C, K, 1) and maps s: (N, K, h w).

    `masks` says which pixels make a region: m_ki, (N, K, h w), of the same maps.
    """

    def masks(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).softmax(dim=-1)  # over pixels, per class

    forward: Callable[[Tensor, Tensor, Tensor], Tensor]


class PixelRegionRelation(RegionRelation):
    """w_ik = softmax_k(phi(x_i) . psi(f_k) / sqrt(d)): from pixels and regions, as in OCR.

    phi and psi are `transforms` times 1x1 convolution, batch norm and ReLU.
    """

    def __init__(self, channels: int, key_channels: int, transforms: int) -> None:
        super().__init__()
        self.phi = _transform(channels, key_channels, transforms)
        self.psi = _transform(channels, key_channels, transforms)

    def forward(self, x: Tensor, regions: Tensor, _maps: Tensor) -> Tensor:
        queries = self.phi(x).flatten(2)  # (N, d, h w)
        keys = self.psi(regions).flatten(2) / math.sqrt(queries.shape[1])  # (N, d, K)
        scores = torch.einsum("ndk,ndi->nki", keys, queries)
        return scores.softmax(dim=1)  # over regions, per pixel


class PixelRelation(RegionRelation):
    """w_ik = softmax_k(W x_i): from the pixels alone, the paper's "DA scheme"."""

    def __init__(self, channels: int, num_regions: int) -> None:
        super().__init__()
        self.predict = nn.Conv2d(channels, num_regions, 1)

    def forward(self, x: Tensor, _regions: Tensor, _maps: Tensor) -> Tensor:
        scores: Tensor = self.predict(x)
        return scores.flatten(2).softmax(dim=1)  # over regions, per pixel


class CoarseRelation(RegionRelation):
    """w_ik = softmax_k(s_ki): the coarse segmentation itself, the paper's "ACF scheme"."""

    def forward(self, _x: Tensor, _regions: Tensor, maps: Tensor) -> Tensor:
        return maps.flatten(2).softmax(dim=1)  # over regions, per pixel


class LabelRelation(RegionRelation):
    """w_ik = s_ki, of maps that are 1 where the pixel's label is k and else 0: ideal regions.

    m_ki = s_ki / sum_j s_kj. A class that is absent has f_k = 0; a pixel without label gathers 0.
    """

    def masks(self, maps: Tensor) -> Tensor:
        labelled = maps.flatten(2)
        return labelled / labelled.sum(dim=-1, keepdim=True).clamp(min=1)

    def forward(self, _x: Tensor, _regions: Tensor, maps: Tensor) -> Tensor:
        return maps.flatten(2)


def build_relation(
    scheme: RegionScheme, channels: int, key_channels: int, num_regions: int
) -> RegionRelation:
    """The relation of `scheme`, for pixels of `channels`."""
    if scheme.ground_truth:
        return LabelRelation()
    if scheme.relation == "double_attention":
        return PixelRelation(channels, num_regions)
    if scheme.relation == "acf":
        return CoarseRelation()
    return PixelRegionRelation(channels, key_channels, scheme.transforms)


class RegionContext(nn.Module):
    """y of the equations above: x (N, C, h, w) and maps (N, K, h, w) -> (N, C, h, w)."""

    def __init__(
        self, channels: int, key_channels: int, num_regions: int, scheme: RegionScheme
    ) -> None:
        super().__init__()
        self.scheme = scheme
        self.relation = build_relation(scheme, channels, key_channels, num_regions)
        self.delta = conv_bn_relu(channels, key_channels, bias=True)
        self.rho = conv_bn_relu(key_channels, channels, bias=True)

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        masks = self.relation.masks(maps)  # (N, K, h w)
        regions = gathered_by(masks, x)  # (N, C, K, 1)
        if self.scheme.delta_on == "regions":
            values = self.delta(regions)  # (N, d, K, 1)
        else:
            values = gathered_by(masks, self.delta(x))
        relation = self.relation(x, regions, maps)  # (N, K, h w)
        gathered = torch.einsum("nck,nki->nci", values.flatten(2), relation)
        augmented: Tensor = self.rho(as_map(gathered, x))
        return augmented

    def attended(self, x: Tensor, maps: Tensor, pixel: tuple[int, int]) -> dict[str, Attended]:
        """The relation of the pixel (row, column) to all regions, and what they are made of."""
        masks = self.relation.masks(maps)
        relation = self.relation(x, gathered_by(masks, x), maps)  # (N, K, h w)
        weights = as_map(relation, x)[:, :, *pixel]  # (N, K)
        composed = torch.einsum("nk,nki->ni", weights, masks)
        attention = as_map(composed.unsqueeze(1), x).squeeze(1)
        return {
            "attention": Attended(attention, COMPOSED[self.scheme.delta_on]),
            "regions": Attended(weights, REGIONS, "class", as_map(masks, x)),
        }


def gathered_by(masks: Tensor, x: Tensor) -> Tensor:
    """Weighted sums over the pixels: masks (N, K, h w), x (N, C, h, w) -> (N, C, K, 1)."""
    return torch.einsum("nki,nci->nkc", masks, x.flatten(2)).transpose(1, 2).unsqueeze(-1)


class RegionModule(nn.Module):
    """A context that gathers regions of x = reduce(layer4): layer4 and maps -> (N, width, h, w)."""

    reduce: nn.Module
    regions: RegionContext


class RegionHead(ContextHead):
    """A head whose context takes layer4 and K maps at its size, made by `coarse` from layer3.

    With `region_supervision` they are logits and take the place of the other heads' `aux`, emitted
    in both modes, since inference needs them. Without, no loss is on them, and an auxiliary branch
    beside them gives `aux`.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {"coarse": 0.4}

    context: RegionModule

    def __init__(
        self,
        coarse: nn.Module,
        context: RegionModule,
        channels: Channels,
        num_classes: int,
        *,
        width: int,
        aux_width: int | None,
        dropout: float,
        region_supervision: bool = True,
    ) -> None:
        """`context` makes `width` channels of the `channels.layer4` and K maps it is given.

        `coarse` takes layer3 to (N, K, h, w) maps.
        """
        super().__init__()
        self.coarse = coarse
        self.context = context
        self.classifier = PixelClassifier(width, num_classes, dropout)
        self.auxiliary: AuxiliaryBranch | None = None
        if not region_supervision:
            self.auxiliary = AuxiliaryBranch(
                channels.layer3, num_classes, width=aux_width, dropout=dropout
            )
            # The terms depend on the options, so the instance replaces what the class declares.
            self.loss_weights = {"aux": 0.4}  # type: ignore[misc]

    def context_inputs(self, features: Features) -> tuple[Tensor, ...]:
        return self._with_maps(features, self.coarse(features.layer3))

    def forward(self, features: Features) -> HeadOutput:
        return self._output(features, self.coarse(features.layer3))

    def _output(self, features: Features, maps: Tensor) -> HeadOutput:
        pixels = self.context(*self._with_maps(features, maps))  # (N, width, h, w)
        aux = {"coarse": maps} if self.auxiliary is None else self.auxiliary(features.layer3)
        return HeadOutput(self.classifier(pixels), pixel_aux=aux, image_aux={})

    def _attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        layer4, maps = self.context_inputs(features)
        return self.context.regions.attended(self.context.reduce(layer4), maps, pixel)

    @staticmethod
    def _with_maps(features: Features, maps: Tensor) -> tuple[Tensor, Tensor]:
        # At output stride 32 layer3 is larger than layer4.
        return features.layer4, resize_like(maps, features.layer4)


def _transform(channels: int, out_channels: int, layers: int) -> nn.Sequential:
    inputs = [channels] + [out_channels] * (layers - 1)
    return nn.Sequential(*(conv_bn_relu(c, out_channels, bias=True) for c in inputs))


def _check_choice(option: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise ValueError(f"unknown {option} {given!r}; allowed: {', '.join(allowed)}")
