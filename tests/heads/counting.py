"""Counting in closed form, and by torch's counter: multiply-accumulates of `context`.

Counted as the papers' complexity tables do: convolutions and matrix products, one
1 x 2048 x 128 x 128 map (and 19 coarse class maps for OCR), 19 classes, no classifier, reference
forms. FLOPs are twice the numbers here.
"""

from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from contextbench.measure.counts import FeatureSize, meta_features
from heads import Channels, build_head


class Count(NamedTuple):
    parameters: int
    macs: int

    def __add__(self, other: tuple[Any, ...]) -> "Count":
        parameters, macs = other
        return Count(self.parameters + parameters, self.macs + macs)


class Setting(NamedTuple):
    channels: Channels
    classes: int
    pixels: int  # h * w


def layer(c_in: int, c_out: int, pixels: int, *, kernel: int = 1, extra: int = 2) -> Count:
    """A convolution; `extra` per output channel: 2 for batch norm, 1 for a bias, 3 for both."""
    weights = c_in * c_out * kernel**2
    return Count(weights + extra * c_out, weights * pixels)


def product(*sizes: int) -> Count:
    """A matrix product: no parameters."""
    macs = 1
    for size in sizes:
        macs *= size
    return Count(0, macs)


PAPER = Setting(Channels(256, 512, 1024, 2048), classes=19, pixels=128 * 128)


def small_setting(height: int, width: int) -> Setting:
    return Setting(Channels(32, 64, 128, 256), classes=7, pixels=height * width)


def counted(name: str, s: Setting, size: tuple[int, int], **options: Any) -> Count:
    """Without data: shapes alone are propagated. What prepares the inputs is not counted."""
    with torch.device("meta"):
        head = build_head(name, s.channels, s.classes, **options).eval()
    inputs = head.context_inputs(meta_features(FeatureSize(s.channels.layer4, *size)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        head.context(*inputs)
    parameters = sum(parameter.numel() for parameter in head.context.parameters())
    return Count(parameters, counter.get_total_flops() // 2)
