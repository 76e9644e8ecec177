"""`contextbench profile`: from what was asked on the command line to a record of costs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from contextbench.config import ConfigError, HeadConfig, load_protocol, nearest
from contextbench.measure.counts import parse_feature_size
from contextbench.measure.profile import Timing, profile_heads, profile_models
from contextbench.precision import Precision
from contextbench.results import ProfileRecord
from contextbench.runner import Execution
from heads.interface import Implementation

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class ProfileRequest:
    """Either `features` (heads alone) or a protocol with an image size (whole models)."""

    protocol: str
    overrides: Sequence[str]
    heads: Sequence[HeadConfig]
    features: str | None
    image: str | None
    classes: int
    implementation: str
    rounds: int  # 0: predict only
    precision: str
    device: torch.device


def run_profile(request: ProfileRequest, execution: Execution) -> ProfileRecord:
    """Measure what was asked. Raises `ConfigError` for sizes and names that cannot be."""
    _check_choice("--precision", request.precision, DTYPES)
    _check_choice("--implementation", request.implementation, get_args(Implementation))
    precision = Precision(dtype=request.precision)  # type: ignore[arg-type]
    train_rounds = 0 if request.features else min(request.rounds, 5)
    total = request.rounds + train_rounds
    with execution.reporter.task("measure costs", max(total, 1)) as update:

        def progress(done: int, _total: int) -> None:
            execution.stop.check()
            update(done, "interleaved rounds")

        timing = Timing(request.rounds, train_rounds, request.device, precision, progress)
        if request.features is not None:
            return _heads_alone(request, timing)
        protocol = load_protocol(request.protocol, request.overrides)
        size = _image_size(request.image) if request.image else protocol.train.crop
        return profile_models(protocol, request.heads, request.classes, size, timing)


def _heads_alone(request: ProfileRequest, timing: Timing) -> ProfileRecord:
    if request.image is not None:
        raise ConfigError("--features and --image exclude each other: heads alone or whole models")
    try:
        size = parse_feature_size(request.features or "")
    except ValueError as error:
        raise ConfigError(f"--features: {error}") from error
    return profile_heads(
        size, request.heads, request.classes, timing, implementation=request.implementation
    )


def _image_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.strip())
    if match is None:
        raise ConfigError(f"--image {text!r}: expected height x width, such as 1024x2048")
    return int(match[1]), int(match[2])


def _check_choice(option: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        raise ConfigError(f"{option} {given!r} is unknown; {nearest(given, allowed)}")
