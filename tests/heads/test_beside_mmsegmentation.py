"""Time beside mmsegmentation's heads, of equal width, as its published configurations have them.

    .venv-oracles/bin/python -m pytest -m timing -s tests/heads/test_beside_mmsegmentation.py

Seconds, so on a quiet machine and not in CI. That the pairs are equal functions is for
`test_equivalence.py`; here the widths are those of ResNet-50, and classes those of Cityscapes.
"""

import statistics
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from contextbench.measure.latency import interleaved
from heads import Channels, Features, build_head
from tests.heads.calls import forward, forward_backward
from tests.heads.test_equivalence import mmseg

pytestmark = [pytest.mark.timing, pytest.mark.oracle, pytest.mark.timeout(1800)]

CHANNELS = Channels(256, 512, 1024, 2048)
CLASSES = 19
RESOLUTION = 1.02  # how far from each other the times of one function are in so many rounds
SIDES = (128, 64, 64, 64)  # of the stages of an image of 512 x 512, output stride 8


@dataclass(frozen=True)
class Pair:
    """Options of our head, name and options of theirs, and the stages that theirs is built for."""

    ours: Mapping[str, Any]
    name: str
    theirs: Mapping[str, Any]
    stages: tuple[int, ...] = (3,)

    def built(self, head: str) -> tuple[nn.Module, nn.Module]:
        widths = [CHANNELS[stage] for stage in self.stages]
        several = len(self.stages) > 1
        options = {"in_channels": widths, "in_index": list(self.stages)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about losses, which every head builds
            theirs: nn.Module = getattr(mmseg("models.decode_heads"), self.name)(
                num_classes=CLASSES,
                norm_cfg={"type": "BN"},
                dropout_ratio=0.1,
                **(options if several else {name: each[0] for name, each in options.items()}),
                **self.theirs,
            )
        return build_head(head, CHANNELS, CLASSES, **self.ours), theirs


PAIRS = {
    "non_local": Pair(
        {"width": 512, "key_channels": 256, "scaled": True},
        "NLHead",
        {"channels": 512, "reduction": 2, "use_scale": True, "mode": "embedded_gaussian"},
    ),
    "dnlnet": Pair(
        {"width": 512, "key_channels": 256, "scaled": True, "temperature": 0.05},
        "DNLHead",
        {"channels": 512, "reduction": 2, "use_scale": True, "mode": "embedded_gaussian"},
    ),
    "gcnet": Pair(
        {"width": 512, "bottleneck": 128},
        "GCHead",
        {"channels": 512, "ratio": 1 / 4, "pooling_type": "att", "fusion_types": ("channel_add",)},
    ),
    "emanet": Pair(
        {"width": 256, "inner_channels": 512, "concat_input": True},
        "EMAHead",
        {"channels": 256, "ema_channels": 512, "num_bases": 64, "num_stages": 3},
    ),
    "deeplabv3plus": Pair(
        {"width": 512, "low_channels": 48, "separable": True, "fuse_kernel": 3},
        "DepthwiseSeparableASPPHead",
        {"channels": 512, "dilations": (1, 12, 24, 36), "c1_in_channels": 256, "c1_channels": 48},
    ),
    "upernet": Pair(
        {"width": 512},
        "UPerHead",
        {"channels": 512, "pool_scales": (1, 2, 3, 6)},
        stages=(0, 1, 2, 3),
    ),
}


# Of three rounds, one burst of other work moves the median by a quarter.
ROUNDS = 7


def learned(*parts: nn.Module) -> int:
    """Elements of the weights of convolutions and of all else but biases."""
    return sum(
        parameter.numel()
        for part in parts
        for name, parameter in part.named_parameters()
        if parameter.requires_grad and not name.endswith("bias")
    )


@pytest.mark.parametrize("name", PAIRS)
def test_no_head_is_slower_than_theirs(name: str) -> None:
    """Forward alone, and with the gradients of all weights and of the features; float32, batch 1.

    Both take turns, and a ratio is the median of those of the rounds: load meets both alike.
    """
    pair = PAIRS[name]
    ours, theirs = (head.eval() for head in pair.built(name))
    assert learned(ours.get_submodule("context"), ours.get_submodule("classifier")) == learned(
        theirs
    )
    stages = Features(*(torch.randn(1, c, s, s) for c, s in zip(CHANNELS, SIDES, strict=True)))
    ratios = {}
    for direction in (forward, forward_backward):
        calls = {"ours": direction(ours, stages), "theirs": direction(theirs, stages)}
        times = interleaved(calls, rounds=ROUNDS, warmup=1, device=torch.device("cpu"))
        both = zip(times["ours"], times["theirs"], strict=True)
        ratios[direction.__name__] = statistics.median(mine / other for mine, other in both)
        medians = {of: f"{statistics.median(each):.0f}" for of, each in times.items()}
        print(
            f"\n{name} {direction.__name__}: {medians['ours']} ms, theirs {medians['theirs']}, "
            f"ratio {ratios[direction.__name__]:.2f}, {torch.get_num_threads()} threads"
        )
    assert max(ratios.values()) <= RESOLUTION, ratios
