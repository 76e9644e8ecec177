"""`contextbench profile`: from what was asked on the command line to a record of costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch

from contextbench.config.amounts import bytes_of
from contextbench.config.evaluation import SINGLE, EvaluateConfig
from contextbench.config.files import ConfigError, nearest
from contextbench.config.frozen import LARGEST_SIDE
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import load_protocol
from contextbench.measure.count_check import check_heads_alone, check_models
from contextbench.measure.counts import FeatureSize, parse_feature_size
from contextbench.measure.fits import fits_of
from contextbench.measure.head_profile import SCOPES, Extent, HeadTiming, profile_heads
from contextbench.measure.passes import Workload
from contextbench.measure.profile import Timing, profile_models, watched
from contextbench.models.build import check_heads
from contextbench.models.compiled import Mode
from contextbench.models.precision import Dtype, MemoryFormat, Precision
from contextbench.papers.published import TableSpec
from contextbench.records.count_checks import CountCheckRecord
from contextbench.records.fits import FitsRecord
from contextbench.records.profiles import HeadProfileRecord, ProfileRecord
from contextbench.system.reading import given
from contextbench.training.execution import Execution
from heads.interface import Implementation

DTYPES = get_args(Dtype)
MODES: tuple[Mode, ...] = get_args(Mode)
LAYOUTS = get_args(MemoryFormat)
FORMS = (*get_args(Implementation), "both")
MOST_TRAIN_ROUNDS = 6


@dataclass(frozen=True)
class Sampling:
    """How costs are measured, whatever is measured."""

    rounds: int  # 0: predict only
    precision: str
    device: torch.device
    modes: Sequence[Mode] = ()
    layout: str = "contiguous"  # of images


@dataclass(frozen=True)
class ModelRequest:
    """Whole models of a protocol; `image` is H x W, or None for the size of its crops."""

    protocol: str
    overrides: Sequence[str]
    heads: Sequence[HeadConfig]
    image: tuple[int, int] | None
    classes: int


@dataclass(frozen=True)
class HeadRequest:
    """Heads alone on features of C x h x w; `sizes`, such as `32,64`, replace h and w."""

    features: str
    sizes: str | None
    heads: Sequence[HeadConfig]
    classes: int
    implementation: str
    extent: Extent


def profile_of_models(
    request: ModelRequest, sampling: Sampling, execution: Execution
) -> ProfileRecord:
    """Measure whole models. Raises `ConfigError` for sizes and names that cannot be."""
    timing = _timing(sampling, execution)
    timing = replace(timing, train_rounds=min(sampling.rounds, MOST_TRAIN_ROUNDS))
    return profile_models(_workload(request, sampling), request.heads, timing)


def fits_of_models(
    request: ModelRequest, budget: str, sampling: Sampling, execution: Execution
) -> FitsRecord:
    """The largest inputs and batches within `budget`, such as 24GiB, of whole models.

    Raises `ConfigError` as `profile_of_models` does, and for a budget that no weights fit into.
    """
    budget_bytes = bytes_of(budget, "--fits")
    work = _workload(request, sampling)
    return fits_of(work, request.heads, budget_bytes, _timing(sampling, execution))


def counts_of_models(
    request: ModelRequest, sampling: Sampling, execution: Execution
) -> CountCheckRecord:
    """Two counts of whole models at the size of the image. Raises as `profile_of_models` does."""
    work = _workload(request, sampling)
    return check_models(work, request.heads, _timing(sampling, execution))


def counts_of_heads(
    request: HeadRequest, sampling: Sampling, execution: Execution
) -> CountCheckRecord:
    """Two counts of heads alone. Raises `ConfigError` for sizes and names that cannot be."""
    return check_heads_alone(
        _feature_sizes(request),
        request.heads,
        _implementations(request),
        request.classes,
        _timing(sampling, execution),
    )


def _workload(request: ModelRequest, sampling: Sampling) -> Workload:
    protocol = load_protocol(request.protocol, request.overrides)
    size = request.image or protocol.train.crop
    # What is asked for is a pass of this size, however the protocol evaluates.
    whole = protocol.model_copy(update={"evaluate": {SINGLE: EvaluateConfig()}})
    precision = precision_of(sampling.precision, sampling.layout)
    work = Workload(whole, request.classes, size, images=None, precision=precision)
    work.check()
    check_heads(whole, request.heads, request.classes)
    return work


def profile_of_heads(
    request: HeadRequest, sampling: Sampling, execution: Execution
) -> HeadProfileRecord:
    """Measure heads alone. Raises `ConfigError` for sizes and names that cannot be."""
    for scope in request.extent.scopes:
        _check_choice("--scopes", scope, SCOPES)
    return profile_heads(
        _feature_sizes(request),
        request.heads,
        _implementations(request),
        request.classes,
        _head_timing(sampling, execution),
        request.extent,
    )


def profile_of_table(
    spec: TableSpec, sampling: Sampling, execution: Execution
) -> HeadProfileRecord:
    """What a paper's table needs: both forms counted and predicted, `context` of the fast timed."""
    timing = _head_timing(sampling, execution)
    size = [FeatureSize(spec.features.channels, spec.features.height, spec.features.width)]
    heads = spec.heads()
    predicting = replace(timing, rounds=0)
    reference = profile_heads(size, heads, ("reference",), spec.classes, predicting)
    context = Extent(scopes=("context",))
    fast = profile_heads(size, heads, ("fast",), spec.classes, timing, context)
    return fast.model_copy(update={"costs": [*reference.costs, *fast.costs]})


def precision_of(dtype: str, layout: str = "contiguous") -> Precision:
    """What `--precision` and `--layout` name. Raises `ConfigError` for anything else."""
    _check_choice("--precision", dtype, DTYPES)
    _check_choice("--layout", layout, LAYOUTS)
    return Precision(dtype=dtype, memory_format=layout)  # type: ignore[arg-type]


def modes_of(names: Sequence[str] | None) -> tuple[Mode, ...]:
    """What `--modes` names. Raises `ConfigError` for others, and without eager beside them."""
    for name in names or ():
        _check_choice("--modes", name, MODES)
    if names is not None and "eager" not in names:
        raise ConfigError("--modes: the others are told beside eager: write --modes eager,compile")
    return tuple(mode for mode in MODES if names is not None and mode in names)


def _timing(sampling: Sampling, execution: Execution) -> Timing:
    return Timing(
        rounds=sampling.rounds,
        train_rounds=0,
        device=sampling.device,
        task=watched(execution.reporter, execution.stop),
        modes=sampling.modes,
    )


def _head_timing(sampling: Sampling, execution: Execution) -> HeadTiming:
    timing = _timing(sampling, execution)
    precision = precision_of(sampling.precision, sampling.layout)
    return HeadTiming(timing.rounds, 0, timing.device, timing.task, precision=precision)


def _implementations(request: HeadRequest) -> Sequence[str]:
    _check_choice("--implementation", request.implementation, FORMS)
    both = request.implementation == "both"
    return get_args(Implementation) if both else (request.implementation,)


def _feature_sizes(request: HeadRequest) -> list[FeatureSize]:
    try:
        size = parse_feature_size(request.features)
    except ValueError as error:
        raise ConfigError(f"--features: {error}") from error
    if request.sizes is None:
        return [size]
    sides = [part.strip() for part in request.sizes.split(",")]
    try:
        sizes = [parse_feature_size(f"{size.channels}x{side}x{side}") for side in sides]
    except ValueError:
        sizes = []
    if not sizes or len(set(sizes)) < len(sizes):
        raise ConfigError(
            f"--sizes {given(request.sizes)}: expected different heights of square feature maps, "
            f"up to {LARGEST_SIDE}, such as 32,48,64"
        )
    return sizes


def _check_choice(option: str, chosen: str, allowed: Sequence[str]) -> None:
    if chosen not in allowed:
        raise ConfigError(f"{option} {given(chosen)} is unknown; {nearest(chosen, allowed)}")
