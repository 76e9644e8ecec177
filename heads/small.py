"""Small heads and inputs to check heads with: widths of a few channels, maps of a few pixels."""

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from heads.interface import Channels, ContextHead, Features, HeadOutput

CHANNELS = Channels(4, 6, 10, 12)
CLASSES = 5
WIDTH = 8


@dataclass(frozen=True)
class Subject:
    """A head to be checked: what makes it, and options that leave it a few channels wide."""

    head: Callable[..., ContextHead]
    options: Mapping[str, Any] = field(default_factory=dict)  # `width` among them, unless it is 8

    @property
    def width(self) -> int:
        """Channels of what `context` makes."""
        return int(self.options.get("width", WIDTH))

    def built(
        self,
        implementation: str = "fast",
        *,
        dropout: float = 0.0,
        seed: int = 0,
        sharp: bool = True,
    ) -> ContextHead:
        """Seeded, so that two calls have equal parameters; batch norm and attention matter."""
        torch.manual_seed(seed)
        given = {"width": WIDTH, **self.options}
        given |= {"dropout": dropout, "implementation": implementation}
        head = self.head(CHANNELS, CLASSES, **given)
        randomize_norms(head)
        if sharp:
            sharpen(head)
        return head


def narrow_subject(head: type[ContextHead], options: Mapping[str, Any] | None = None) -> Subject:
    """A head with its default options or others, all channel counts divided by that of `width`.

    As a protocol's `head_width_factor` does: plain integers named `width`, `*_width`, `*_channels`.
    """
    chosen = {**_defaults(head), **(options or {})}
    widest = chosen.get("width")
    factor = WIDTH / widest if isinstance(widest, int) and widest > WIDTH else 1.0
    counts = {
        name: max(1, round(value * factor))
        for name, value in chosen.items()
        if type(value) is int and name.endswith(("width", "_channels"))
    }
    return Subject(head, {**(options or {}), **counts})


def _defaults(head: type[ContextHead]) -> dict[str, Any]:
    parameters = inspect.signature(head).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def sharpen(module: nn.Module) -> None:
    """Larger weights: with the library's, attention is almost uniform, whatever it attends to."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)


def randomize_norms(module: nn.Module) -> None:
    """Statistics and affine parameters away from their neutral start, variances positive."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.3)
    for parameter in module.parameters():
        if parameter.ndim == 0:  # a gate that starts at 0 hides what is behind it
            nn.init.constant_(parameter, 0.7)


def small_features(
    height: int = 17, width: int = 13, *, batch: int = 2, dtype: torch.dtype = torch.float32
) -> Features:
    """Noise, the same for each size; layer1 is twice as large as the others."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(2 * height, 2 * width), *[(height, width)] * 3]
    return Features(
        *(
            torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64).to(dtype)
            for channels, size in zip(CHANNELS, sizes, strict=True)
        )
    )


def tensors(output: HeadOutput) -> list[Tensor]:
    """All logits of an output, in a fixed order."""
    return [output.logits, *output.pixel_aux.values(), *output.image_aux.values()]


def scalar_loss(output: HeadOutput) -> Tensor:
    """A smooth function of every logit, different for each."""
    weights = itertools.count(1)
    losses = [(logits * logits.sin()).mean() * next(weights) for logits in tensors(output)]
    return torch.stack(losses).sum()
