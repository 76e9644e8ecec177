"""Records -> one row a head. Base units and fractions; rounding happens where tables are printed.

Columns of a comparison: `head, seeds`, scores as means over seeds, `miou_min, miou_max,
miou_seed_sd` over seeds, `iou_<group>`, what resampling the test images says (below), costs of the
profile's scope (`parameters` to `train_latency_ratio`; a ratio has ends `_low` and `_high` of an
interval over rounds, and its `_level`), `train_seconds, train_device`, `weights` (which of
those that training passed through are scored), of tuned heads `tuned` (the values that were
chosen), `tuned_trials` (from so many) and `tuning` (sentences on all heads), `status` (the worst of
the seeds), `note` and `cost_note` (why scores or costs are missing), and what the numbers belong to
(`dataset, protocol, view, device, input, latency_baseline, latency_rounds`).

`miou_low, miou_high` end the interval of mIoU of these models over test images. Over other
trainings and other images are `groups`, letters (heads that share one are not separated; empty
without a verdict), `separable_from_best` and `holm_p_value`, which refer to the first row, and
`difference_to_best`, this head minus the first row, between `difference_low, difference_high`.
`models_groups` to `models_holm_p_value` say the same of the trained models over images alone, and
`verdict` is one sentence on all heads. How they were made is in `interval_level,
interval_resamples, interval_images, interval_block`; `smallest_difference` is the median over pairs
of what as many trainings and images show.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import pandas as pd

from contextbench.config.grids import values_text
from contextbench.records.classes import ClassTotals
from contextbench.records.comparability import (
    by_head,
    check_comparable,
    dataset_name,
    device_name,
)
from contextbench.records.profiles import CompiledCost, HeadCost, ProfileRecord
from contextbench.records.runs import RunRecord, Status
from contextbench.report.collection import run_note
from contextbench.report.samples import median_ratio, median_ratio_ends, number, quartiles
from contextbench.report.tuning import tuned_heads, tuned_notes
from contextbench.report.verdicts import verdict_sentence
from contextbench.report.weights import weights_text
from contextbench.statistics.intervals import Ranking
from contextbench.statistics.scores import (
    CLASS_METRICS,
    ClassMetric,
    Scores,
    group_iou,
    scores,
)

GROUP_PREFIX = "iou_"  # of columns with the mean IoU of a group of classes
MEASURES = (
    "miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "mean_f1",
    "mean_precision",
)  # fmt: skip
MODELS = ("models_difference_low", "models_difference_high", "models_holm_p_value")
RESAMPLED = (
    "miou_low", "miou_high", "groups", "separable_from_best", "difference_to_best",
    "difference_low", "difference_high", "holm_p_value", "models_groups", *MODELS,
)  # fmt: skip
RESAMPLING = (
    "interval_level", "interval_resamples", "interval_images", "interval_block",
    "smallest_difference",
)  # fmt: skip
SEVERITY: dict[Status, int] = {"done": 0, "interrupted": 1, "out_of_memory": 2, "failed": 3}


def comparison_table(
    runs: Sequence[RunRecord], profile: ProfileRecord | None, *, ranking: Ranking | None = None
) -> pd.DataFrame:
    """One row a head, best mIoU first; a head without scores is a row of NaN with a note.

    `ranking` is `Collection.ranking` of the same runs; intervals and groups of heads that it lacks
    are NaN and empty, and nothing refers to a best row that it lacks.
    Raises `MixedProtocolsError` for runs that do not measure the same thing, `ValueError` when
    there are none or one occurs twice.
    """
    check_comparable(runs)
    rows = [
        {**_accuracy(name, group), **_cost(name, profile), **_outcome(name, group, profile)}
        for name, group in by_head(runs).items()
    ]
    table = pd.DataFrame(rows).sort_values(
        ["miou", "head"], ascending=[False, True], na_position="last", ignore_index=True
    )
    heads = [str(head) for head in table["head"]]
    statistics = pd.DataFrame([_statistics(head, heads[0], ranking) for head in heads])
    return table.join(statistics.astype({"separable_from_best": "boolean"})).assign(
        **_tuned(heads, runs),
        verdict=verdict_sentence(ranking) if ranking else "",
        **_resampling(ranking),
        dataset=dataset_name(runs[0]),
        protocol=runs[0].protocol_name,
        view=runs[0].view_name,
        **_provenance(profile),
    )


def cost_table(profile: ProfileRecord) -> pd.DataFrame:
    """One row a head of a profile, in its order: the cost columns of a comparison."""
    rows = [
        {"head": name, **_cost(name, profile), "cost_note": _cost_note(name, profile)}
        for name in profile.heads
    ]
    return pd.DataFrame(rows).assign(protocol=profile.protocol_name, **_provenance(profile))


def per_class_table(runs: Sequence[RunRecord], metric: ClassMetric = "iou") -> pd.DataFrame:
    """One row a class: `class`, `labelled_fraction`, IoU of each head (mean over seeds, or NaN).

    Another `metric` takes the place of IoU. Heads are in the order of the comparison. Raises as
    `comparison_table` does.
    """
    classes = runs[0].labels.classes if runs else []
    columns: dict[str, Any] = {"class": classes, "labelled_fraction": _labelled_fraction(runs)}
    groups = by_head(runs)
    for name in comparison_table(runs, None)["head"]:
        per_seed = [_per_class(run.totals, metric) for run in groups[name] if run.totals]
        columns[name] = [_mean(seed[k] for seed in per_seed) for k in range(len(classes))]
    return pd.DataFrame(columns)


def _per_class(totals: ClassTotals, metric: ClassMetric) -> list[float]:
    counts = map(np.array, (totals.intersection, totals.predicted, totals.labelled))
    values: list[float] = CLASS_METRICS[metric](*counts).tolist()
    return values


def group_columns(table: pd.DataFrame) -> list[str]:
    """Names of the columns that hold the mean IoU of a group of classes."""
    return [str(name) for name in table.columns if str(name).startswith(GROUP_PREFIX)]


def head_cost(name: str, profile: ProfileRecord | None) -> HeadCost:
    """The cost of a head; one without any numbers where it was not measured."""
    return (profile.heads.get(name) if profile else None) or HeadCost(counts={})


def _scored(runs: Iterable[RunRecord]) -> list[Scores]:
    return [
        scores(run.totals.intersection, run.totals.predicted, run.totals.labelled)
        for run in runs
        if run.totals is not None
    ]


def _accuracy(name: str, runs: Sequence[RunRecord]) -> dict[str, Any]:
    results = _scored(runs)
    mious = [result.miou for result in results if not math.isnan(result.miou)]
    elsewhere = any(run.imported for run in runs)
    groups = runs[0].labels.groups
    per_seed = [group_iou(result.iou_per_class, groups) for result in results]
    return {
        "head": name,
        "seeds": len(results),
        **{measure: _mean(getattr(result, measure) for result in results) for measure in MEASURES},
        "miou_min": min(mious, default=math.nan),
        "miou_max": max(mious, default=math.nan),
        # Models from elsewhere are no trainings of one method, of which this would be the spread.
        "miou_seed_sd": stdev(mious) if len(mious) > 1 and not elsewhere else math.nan,
        **{GROUP_PREFIX + group: _mean(seed[group] for seed in per_seed) for group in groups},
    }


def _statistics(head: str, best: str, ranking: Ranking | None) -> dict[str, Any]:
    """The columns of one head that come from resampling; empty where it is not ranked."""
    ranked = ranking.find(head) if ranking else None
    columns = {
        **dict.fromkeys(RESAMPLED, math.nan),
        "groups": "",
        "models_groups": "",
        "separable_from_best": None,
    }
    if ranking is None or ranked is None:
        return columns
    columns.update(miou_low=ranked.miou.low, miou_high=ranked.miou.high, groups=ranked.groups)
    columns.update(models_groups=ranked.models_groups)
    if head == best:
        judged = False if ranked.groups else None
        columns.update(separable_from_best=judged, difference_to_best=0.0)
    elif ranking.find(best):
        columns.update(difference_columns(ranking, head, best, "difference_to_best"))
        pair = ranking.pair(head, best)
        columns["separable_from_best"] = pair.separated if pair.tested else None
    return columns


def difference_columns(ranking: Ranking, head: str, reference: str, name: str) -> dict[str, float]:
    """Difference to a reference, called `name`, with its interval and p-value, and `MODELS`."""
    pair = ranking.pair(head, reference)
    estimate, low, high = ranking.difference(head, reference)
    models = ranking.difference(head, reference, models=True)
    return {
        name: estimate,
        "difference_low": low,
        "difference_high": high,
        "holm_p_value": pair.holm_p_value,
        **dict(zip(MODELS, (models.low, models.high, pair.models.holm_p_value), strict=True)),
    }


def _resampling(ranking: Ranking | None) -> dict[str, float]:
    """How the intervals were made; NaN where there are none."""
    if ranking is None:
        return dict.fromkeys(RESAMPLING, math.nan)
    given = ranking.resampling
    known = [p.smallest_difference for p in ranking.pairs if not math.isnan(p.smallest_difference)]
    typical = median(known) if known else math.nan
    values = (given.level, given.resamples, ranking.images, ranking.block, typical)
    return dict(zip(RESAMPLING, values, strict=True))


def _tuned(heads: Sequence[str], runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """What was chosen for each head, of how many trials; no columns where heads are not tuned."""
    tuned = tuned_heads(runs)
    if not tuned:
        return {}
    own = [tuned.get(head) for head in heads]  # None: a model from elsewhere
    return {
        "tuned": ["" if each is None else values_text(each.head.values) for each in own],
        "tuned_trials": [0 if each is None else len(each.head.trials) for each in own],
        "tuning": [" ".join(tuned_notes(runs))] * len(heads),
    }


def _cost(name: str, profile: ProfileRecord | None) -> dict[str, Any]:
    cost = head_cost(name, profile)
    baseline = head_cost(profile.baseline, profile) if profile else cost
    parameters, macs = _counts(cost, profile.scope if profile else "model")
    context_parameters, context_macs = _counts(cost, "context")
    first_quartile, median, third_quartile = quartiles(cost.latency_ms)
    return {
        "parameters": parameters,
        "macs": macs,
        "flops": 2 * macs,
        "context_parameters": context_parameters,
        "context_macs": context_macs,
        "inference_memory_bytes": number(cost.inference_memory_bytes),
        "training_memory_bytes": number(cost.training_memory_bytes),
        "latency_ms": median,
        "latency_q1_ms": first_quartile,
        "latency_q3_ms": third_quartile,
        **_ratio("latency_ratio", cost.latency_ms, baseline.latency_ms),
        "train_latency_ms": quartiles(cost.train_latency_ms)[1],
        **_ratio("train_latency_ratio", cost.train_latency_ms, baseline.train_latency_ms),
        "latency_rounds": len(cost.latency_ms),
        **(_compiled(cost, cost.compiled or CompiledCost()) if _is_compiled(profile) else {}),
    }


def _is_compiled(profile: ProfileRecord | None) -> bool:
    """Whether compiled code was asked for."""
    return any(cost.compiled is not None for cost in (profile.heads.values() if profile else ()))


def _compiled(eager: HeadCost, compiled: CompiledCost) -> dict[str, float]:
    """Compiled code beside the eager one of the same rounds; NaN where there is none."""
    steps, seconds = compiled.train_latency_ms, compiled.train_compile_seconds
    return {
        "compiled_latency_ms": quartiles(compiled.latency_ms)[1],
        "compiled_speedup": median_ratio(eager.latency_ms, compiled.latency_ms),
        "compile_seconds": _or_nan(compiled.compile_seconds),
        "compiled_train_latency_ms": quartiles(steps)[1],
        "compiled_train_speedup": median_ratio(eager.train_latency_ms, steps),
        "train_compile_seconds": _or_nan(seconds),
    }


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _ratio(name: str, times: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """A ratio to the baseline, the ends of its interval and the level of that."""
    values = (median_ratio(times, baseline), *median_ratio_ends(times, baseline))
    endings = ("", "_low", "_high", "_level")
    return {f"{name}{end}": value for end, value in zip(endings, values, strict=True)}


def _counts(cost: HeadCost, scope: str) -> tuple[float, float]:
    """Parameters and MACs of a scope."""
    counts = cost.counts.get(scope)
    return (float(counts.parameters), float(counts.macs)) if counts else (math.nan, math.nan)


def _outcome(name: str, runs: Sequence[RunRecord], profile: ProfileRecord | None) -> dict[str, Any]:
    finished = [run for run in runs if run.status == "done"]
    devices = dict.fromkeys(device_name(run.environment) for run in finished)
    return {
        "train_seconds": _mean(run.train_seconds for run in finished),
        "train_device": " and ".join(devices),
        "weights": weights_text(runs),
        "status": max((run.status for run in runs), key=SEVERITY.__getitem__),
        "note": "; ".join(f"seed {run.seed}: {why}" for run in runs if (why := run_note(run))),
        "cost_note": _cost_note(name, profile),
    }


def _cost_note(name: str, profile: ProfileRecord | None) -> str:
    """Why a head lacks costs that others have; empty where it does not."""
    if profile is None:
        return ""
    cost = profile.heads.get(name)
    if cost is None:
        return "cost not measured"
    notes = [f"cost: {cost.failure.cause}"] if cost.failure else []
    if cost.compiled is not None and cost.compiled.failure is not None:
        notes.append(f"compiled: {cost.compiled.failure.cause}")
    return "; ".join(notes)


def _provenance(profile: ProfileRecord | None) -> dict[str, Any]:
    if profile is None:
        return {"device": "", "input": "", "scope": "", "latency_baseline": ""}
    return {
        "device": device_name(profile.environment),
        "input": profile.input,
        "scope": profile.scope,
        "latency_baseline": profile.baseline,
    }


def _labelled_fraction(runs: Sequence[RunRecord]) -> list[float]:
    """Share of the labelled pixels that each class has; NaN where no run was evaluated."""
    totals = next((run.totals for run in runs if run.totals is not None), None)
    if totals is None:
        return [math.nan] * (len(runs[0].labels.classes) if runs else 0)
    pixels = sum(totals.labelled)
    return [count / pixels if pixels else math.nan for count in totals.labelled]


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan
