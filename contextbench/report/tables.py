"""Records -> one row a head. Base units and fractions; rounding happens in `render`.

Columns of a comparison: `head, seeds`, scores as means over seeds, `miou_min, miou_max` over
seeds, `iou_<group>`, costs of the profile's scope (`parameters` to `train_latency_ratio`),
`train_seconds`, `status` (the worst of the seeds), `note`, and what the numbers belong to
(`dataset, protocol, device, input, latency_baseline, latency_rounds`).
"""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from contextbench.metrics import Scores, group_iou, scores
from contextbench.report.checks import (
    MixedProtocolsError,
    by_head,
    check_comparable,
    device_name,
    warnings_for,
)
from contextbench.report.forms import median_ratio, number, quartiles
from contextbench.report.render import (
    GROUP_PREFIX,
    group_columns,
    per_class_markdown,
    render_console,
    render_markdown,
    write_csv,
)
from contextbench.results import Failure, HeadCost, ProfileRecord, RunRecord, Status

__all__ = [
    "GROUP_PREFIX",
    "MixedProtocolsError",
    "comparison_table",
    "cost_table",
    "group_columns",
    "per_class_markdown",
    "per_class_table",
    "render_console",
    "render_markdown",
    "warnings_for",
    "write_csv",
]

MEASURES = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
SEVERITY: dict[Status, int] = {"done": 0, "interrupted": 1, "out_of_memory": 2, "failed": 3}


def comparison_table(runs: Sequence[RunRecord], profile: ProfileRecord | None) -> pd.DataFrame:
    """One row a head, best mIoU first; a head without scores is a row of NaN with a note.

    Raises `MixedProtocolsError` for runs that do not measure the same thing, `ValueError` when
    there are none or one occurs twice.
    """
    check_comparable(runs)
    rows = [
        {**_accuracy(name, group), **_cost(name, profile), **_outcome(name, group, profile)}
        for name, group in by_head(runs).items()
    ]
    table = pd.DataFrame(rows).assign(
        dataset=_dataset_name(runs[0]), protocol=runs[0].protocol_name, **_provenance(profile)
    )
    return table.sort_values(
        ["miou", "head"], ascending=[False, True], na_position="last", ignore_index=True
    )


def cost_table(profile: ProfileRecord) -> pd.DataFrame:
    """One row a head of a profile, in its order: the cost columns of a comparison."""
    rows = [
        {"head": name, **_cost(name, profile), "note": _failure(cost.failure)}
        for name, cost in profile.heads.items()
    ]
    return pd.DataFrame(rows).assign(protocol=profile.protocol_name, **_provenance(profile))


def per_class_table(runs: Sequence[RunRecord]) -> pd.DataFrame:
    """One row a class: `class`, `labelled_fraction`, IoU of each head (mean over seeds, or NaN).

    Heads are in the order of the comparison. Raises as `comparison_table` does.
    """
    classes = runs[0].labels.classes if runs else []
    columns: dict[str, Any] = {"class": classes, "labelled_fraction": _labelled_fraction(runs)}
    groups = by_head(runs)
    for name in comparison_table(runs, None)["head"]:
        per_seed = [result.iou_per_class for result in _scored(groups[name])]
        columns[name] = [_mean(seed[k] for seed in per_seed) for k in range(len(classes))]
    return pd.DataFrame(columns)


def _scored(runs: Iterable[RunRecord]) -> list[Scores]:
    return [
        scores(run.totals.intersection, run.totals.predicted, run.totals.labelled)
        for run in runs
        if run.totals is not None
    ]


def _accuracy(name: str, runs: Sequence[RunRecord]) -> dict[str, Any]:
    results = _scored(runs)
    mious = [result.miou for result in results if not math.isnan(result.miou)]
    groups = runs[0].labels.groups
    per_seed = [group_iou(result.iou_per_class, groups) for result in results]
    return {
        "head": name,
        "seeds": len(results),
        **{measure: _mean(getattr(result, measure) for result in results) for measure in MEASURES},
        "miou_min": min(mious, default=math.nan),
        "miou_max": max(mious, default=math.nan),
        **{GROUP_PREFIX + group: _mean(seed[group] for seed in per_seed) for group in groups},
    }


def _cost(name: str, profile: ProfileRecord | None) -> dict[str, Any]:
    cost = _head_cost(name, profile)
    baseline = _head_cost(profile.baseline, profile) if profile else cost
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
        "latency_ratio": median_ratio(cost.latency_ms, baseline.latency_ms),
        "train_latency_ms": quartiles(cost.train_latency_ms)[1],
        "train_latency_ratio": median_ratio(cost.train_latency_ms, baseline.train_latency_ms),
        "latency_rounds": len(cost.latency_ms),
    }


def _head_cost(name: str, profile: ProfileRecord | None) -> HeadCost:
    """The cost of a head; one without any numbers where it was not measured."""
    return (profile.heads.get(name) if profile else None) or HeadCost(counts={})


def _counts(cost: HeadCost, scope: str) -> tuple[float, float]:
    """Parameters and MACs of a scope."""
    counts = cost.counts.get(scope)
    return (float(counts.parameters), float(counts.macs)) if counts else (math.nan, math.nan)


def _outcome(name: str, runs: Sequence[RunRecord], profile: ProfileRecord | None) -> dict[str, Any]:
    finished = [run.train_seconds for run in runs if run.status == "done"]
    notes = [_run_note(run) for run in runs]
    if profile is not None:
        cost = profile.heads.get(name)
        notes.append("cost not measured" if cost is None else _failure(cost.failure))
    return {
        "train_seconds": _mean(finished),
        "status": max((run.status for run in runs), key=SEVERITY.__getitem__),
        "note": "; ".join(note for note in notes if note),
    }


def _run_note(run: RunRecord) -> str:
    if run.status == "done":
        return "" if run.totals is not None else f"seed {run.seed}: not evaluated"
    outcome = f"seed {run.seed}: {run.status.replace('_', ' ')} at step {run.steps}"
    return f"{outcome} ({run.failure.cause})" if run.failure else outcome


def _failure(failure: Failure | None) -> str:
    return f"cost: {failure.cause}" if failure else ""


def _provenance(profile: ProfileRecord | None) -> dict[str, Any]:
    if profile is None:
        return {"device": "", "input": "", "scope": "", "latency_baseline": ""}
    return {
        "device": device_name(profile.environment),
        "input": profile.input,
        "scope": profile.scope,
        "latency_baseline": profile.baseline,
    }


def _dataset_name(run: RunRecord) -> str:
    dataset = run.protocol.get("dataset")
    return str(dataset["name"]) if isinstance(dataset, dict) and "name" in dataset else ""


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
