"""Our counts of multiply-accumulates beside those of fvcore, operator by operator.

Ours are of a pass on the meta device; fvcore traces a pass on zeros, and so computes one. It calls
a multiply-accumulate a flop; torch's counter, behind ours, has two operations for it. Its operators
are those of torch's functions (`linear`, `einsum`), ours what these come down to (`addmm`, `bmm`):
they are set side by side by kind.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.measure.counts import FeatureSize, feature_channels, meta_features, run_on_meta
from contextbench.measure.passes import Workload, built
from contextbench.measure.profile import Timing
from contextbench.models.build import build_configured
from contextbench.records.count_checks import CheckedCounts, CountCheckRecord, Kind, KindCounts
from contextbench.records.failures import Failure
from contextbench.training.environment import environment
from heads import Features

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fvcore uses parts of torch that torch has deprecated
    from fvcore.nn import FlopCountAnalysis

# By the names that fvcore gives to what it counts.
KINDS: dict[str, Kind] = {
    "conv": "convolutions",
    **dict.fromkeys(("linear", "addmm", "matmul", "mm", "bmm", "baddbmm", "einsum"), "products"),
}

Made = tuple[nn.Module, tuple[Tensor, ...]]  # a module that returns a tensor, and its inputs
Row = tuple[CheckedCounts, Callable[[], Made]]  # what it is of, and how it is made


class _Logits(nn.Module):
    """The logits of a model, or of a head given its features one by one: a trace takes tensors."""

    def __init__(self, module: nn.Module, *, features: bool) -> None:
        super().__init__()
        self.module = module
        self._features = features

    def forward(self, *inputs: Tensor) -> Tensor:
        output = self.module(Features(*inputs)) if self._features else self.module(*inputs)
        logits: Tensor = output.logits
        return logits


def check_heads_alone(
    sizes: Sequence[FeatureSize],
    heads: Sequence[HeadConfig],
    implementations: Sequence[str],
    classes: int,
    timing: Timing,
) -> CountCheckRecord:
    """Of every head in every implementation on features of every size, batch 1, scope `head`.

    One that cannot be counted is a row with a reason. Raises `ConfigError` for wrong options.
    """

    def made(config: HeadConfig, form: str, size: FeatureSize) -> Made:
        options = {**config.options, "implementation": form}
        head = build_configured(config, feature_channels(size), classes, options)
        stages = tuple(torch.zeros(stage.shape) for stage in meta_features(size))
        return _Logits(head, features=True).eval(), stages

    rows: list[Row] = [
        (
            CheckedCounts(head=head.name, implementation=form, input="x".join(map(str, size))),
            partial(made, head, form, size),
        )
        for size, head, form in product(sizes, heads, implementations)
    ]
    return _record("head", rows, classes, timing)


def check_models(work: Workload, heads: Sequence[HeadConfig], timing: Timing) -> CountCheckRecord:
    """Of whole models on an image of evaluation, scope `model`. Raises as `check_heads_alone`."""
    shape = (1, 3, *work.input_size)

    def made(head: HeadConfig) -> Made:
        return _Logits(built(work, head), features=False).eval(), (torch.zeros(shape),)

    rows: list[Row] = [
        (
            CheckedCounts(head=head.name, implementation=None, input="x".join(map(str, shape))),
            partial(made, head),
        )
        for head in heads
    ]
    return _record("model", rows, work.classes, timing)


def _record(
    scope: Literal["head", "model"], rows: Sequence[Row], classes: int, timing: Timing
) -> CountCheckRecord:
    checks = []
    with timing.task("count twice", len(rows)) as progress:
        for check, made in rows:
            checks.append(_guarded(check, made))
            progress(len(checks))
    return CountCheckRecord(
        scope=scope,
        classes=classes,
        fvcore=version("fvcore"),
        environment=environment(timing.device),
        checks=checks,
    )


def _guarded(check: CheckedCounts, made: Callable[[], Made]) -> CheckedCounts:
    try:
        return _checked(check, *made())
    except ConfigError:
        raise
    except Exception as error:
        return check.model_copy(update={"failure": Failure.of(error)})


def _checked(check: CheckedCounts, module: nn.Module, inputs: tuple[Tensor, ...]) -> CheckedCounts:
    ours = run_on_meta(module, *inputs)
    theirs, unseen = _fvcore_counts(module, inputs)
    kinds: list[KindCounts] = [
        KindCounts(
            kind=kind,
            ours={name: n for name, n in ours.macs.items() if _our_kind(name) == kind},
            fvcore={name: n for name, n in theirs.items() if KINDS.get(name) == kind},
        )
        for kind in dict.fromkeys(KINDS.values())
    ]
    return check.model_copy(
        update={
            "kinds": kinds,
            "unseen_by_ours": list(ours.counts.uncounted),
            "unseen_by_fvcore": unseen,
            "other_by_fvcore": {n: each for n, each in theirs.items() if n not in KINDS},
        }
    )


def _our_kind(name: str) -> Kind:
    """Of an operator that is counted: what is no convolution is a product, fused ones too."""
    return "convolutions" if name.startswith("convolution") else "products"


def _fvcore_counts(
    module: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[dict[str, int], dict[str, int]]:
    """Counts by operator, and operators without a count with how often they run."""
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(module, inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        counted = {name: int(number) for name, number in analysis.by_operator().items()}
        unseen = analysis.unsupported_ops()
    named = {name.removeprefix("aten::"): int(times) for name, times in unseen.items()}
    return counted, dict(sorted(named.items()))
