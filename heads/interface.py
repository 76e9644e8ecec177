"""The contract between a backbone, a context head and the training loss.

Axes: N images, K classes, C channels, (H, W) image pixels, (h, w) feature pixels, height first.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

Implementation = Literal["fast", "reference"]

Release = Literal["paper", "authors"]
"""What of a method is built: what its paper says, or what its authors' code runs.

With `authors`, `context` is that of published weights, and starts as there. The classifier, dropout
and the branch on layer3, which no inference needs, stay those of every head.
"""


class Features(NamedTuple):
    """Backbone stages, shallow to deep. (h, w) is the image size over the output stride."""

    layer1: Tensor  # (N, C1, H/4, W/4)
    layer2: Tensor  # (N, C2, H/8, W/8)
    layer3: Tensor  # (N, C3, h, w) for output strides 8 and 16
    layer4: Tensor  # (N, C4, h, w)


class Channels(NamedTuple):
    """Channel count of each stage of `Features`."""

    layer1: int
    layer2: int
    layer3: int
    layer4: int


class HeadOutput(NamedTuple):
    """Logits only: nothing resized to the image, nothing activated."""

    logits: Tensor  # (N, K, h, w)   scored at evaluation; larger where a head decodes
    pixel_aux: dict[str, Tensor]  # each (N, K, h', w'), compared with the label map
    image_aux: dict[str, Tensor]  # each (N, K), compared with the set of classes present


class Attended(NamedTuple):
    """What one pixel of the features takes from the pixels of the map, or from a few parts."""

    values: Tensor  # (N, h, w) over the pixels, or (N, n) over n parts
    meaning: str  # of values and places: what they weigh, and whether they sum to 1
    part: str = "pixel"  # what the values run over; of a `class` they are those of the task
    places: Tensor | None = None  # (N, n, h, w): where on the map each of the n parts is


class Averaged(nn.Module):
    """A part that keeps a running mean over images in training, as batch norm does."""

    average: Callable[[Tensor], Tensor] = staticmethod(lambda own: own)
    """A tensor of this process -> its mean over all that train together, which sets this."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, then every submodule's own mode again: a frozen batch norm stays frozen."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


class ContextHead(nn.Module):
    """A context module with its classifier and its auxiliary branches.

    `context` holds what the papers count (reduction, context, fusion); `classifier` is dropout and
    a 1x1 convolution on its output. `loss_weights` names every auxiliary term that the head emits
    in training, with its published weight; the main term always has weight 1.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {}

    logits_stage: ClassVar[str] = "layer4"
    """The stage of `Features` whose height and width the logits have."""

    ideal_regions: int = 0
    """K of a head that is given the ground truth as its regions, for a bound; 0 for all others."""

    context: nn.Module
    classifier: nn.Module

    def context_inputs(self, features: Features) -> tuple[Tensor, ...]:
        """What `context` is called with; cost in the scope `context` is counted on it alone."""
        return (features.layer4,)

    def forward(self, features: Features) -> HeadOutput:
        raise NotImplementedError

    def forward_with_regions(self, features: Features, regions: Tensor) -> HeadOutput:
        """`forward` with ideal regions, of heads that have `ideal_regions` and of no other.

        `regions` (N, K, h, w) is 1 where the label is k and else 0, so 0 throughout where there is
        no label. Training and evaluation call it with the labels of the images.
        """
        raise NotImplementedError

    def attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        """What the feature pixel (row, column) attends to, by name; nothing for many heads.

        Computed anew from the features, in evaluation mode and without gradients: `forward` does
        and keeps nothing for it. Where one map says it all, it is `attention` and the first.
        Raises ValueError for a pixel outside the features.
        """
        size = tuple(features.layer4.shape[-2:])
        if not all(0 <= at < length for at, length in zip(pixel, size, strict=True)):
            raise ValueError(f"pixel {pixel} is outside the features, {size} (height, width)")
        with evaluating(self), torch.no_grad():
            return self._attend(features, pixel)

    def _attend(self, _features: Features, _pixel: tuple[int, int]) -> dict[str, Attended]:
        """What `attend` gives. Heads that relate a pixel to others or to parts override it."""
        return {}
