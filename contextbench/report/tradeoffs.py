"""mIoU against what a head costs: points, what is said below the plot, what is left out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from contextbench.records.profiles import ProfileRecord
from contextbench.report.columns import COST_COLUMNS
from contextbench.report.comparison import head_cost
from contextbench.report.plots import Ends, Frame, Point, Tradeoff, is_wide, tradeoff
from contextbench.report.samples import quartiles
from contextbench.report.verdicts import draws_of, verdict_sentence
from contextbench.report.words import between, level_text, percent, significant, status_text
from contextbench.statistics.intervals import Interval, Ranking

COSTS = {
    "macs": "Multiply-accumulates",
    "latency_ms": "Latency of a forward pass",
    "inference_memory_bytes": "Peak memory at inference, predicted",
    "parameters": "Parameters",
    "training_memory_bytes": "Peak memory of a training step, predicted",
    "train_latency_ms": "Time of a training step",
    "train_seconds": "Training time of one run",
    "context_macs": "Multiply-accumulates of the context module",
    "context_parameters": "Parameters of the context module",
}
"""Cost column of the comparison table -> what it is called; the first one that exists is shown."""

MAIN = ("macs", "latency_ms", "inference_memory_bytes", "parameters")  # those that figures show
WIDE_QUARTILES = 0.1  # of the median: times that vary more are named

Row = Mapping[Any, Any]  # of a comparison's table


def label_of(cost: str) -> str:
    """What an axis of a cost is called."""
    return f"{COSTS[cost]} ({COST_COLUMNS[cost].unit})"


def plottable(table: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The rows that have both a score and this cost."""
    return table[table["miou"].notna() & table[cost].notna()]


def tradeoff_of(
    table: pd.DataFrame,
    cost: str,
    frame: Frame,
    *,
    ranking: Ranking | None = None,
    profile: ProfileRecord | None = None,
    logarithmic: bool | None = None,
) -> Tradeoff:
    """The plot of a cost that some head with a score has.

    The front is dotted between heads that the split cannot separate. `logarithmic`: None where the
    costs decide. `profile` has the times of training steps, for their quartiles.
    """
    rows = plottable(table, cost).to_dict("records")
    points = [_point(row, cost, ranking, profile) for row in rows]
    alike = {head: ranking.not_separated(head) for head in ranking.names} if ranking else {}
    if logarithmic is None:
        logarithmic = is_logarithmic(table, cost)
    return tradeoff(points, label_of(cost), frame, logarithmic=logarithmic, alike=alike)


def is_logarithmic(table: pd.DataFrame, cost: str) -> bool:
    """Whether the costs of the plot are better seen on a logarithmic axis."""
    return is_wide(plottable(table, cost)[cost])


def sentences(table: pd.DataFrame, costs: Sequence[str], ranking: Ranking | None) -> Iterator[str]:
    """What is drawn, of how many seeds, measured on what, and what is left out."""
    several = ranking is not None and len(ranking.heads) > 1
    separation = "; dotted between heads that this split cannot separate" if several else ""
    yield (
        "Step line: Pareto front, the heads that no other head beats in both cost and "
        f"mIoU{separation}."
    )
    if ranking is not None:
        yield (
            "Vertical bars, behind the markers where short: "
            f"{level_text(ranking.resampling.level)} interval of mIoU over {draws_of(ranking)}. "
            "Heads share the draws, so bars that overlap may belong to heads that differ."
        )
    if ranking is not None and several:
        yield verdict_sentence(ranking)
    if (table["seeds"] > 1).any():
        ends = "single seeds" if ranking else "lowest and highest of the seeds"
        yield f"Small dots: {ends}."
    yield from _cost_sentences(table, costs)
    missing = missing_heads(table, costs)
    if missing:
        yield f"Not shown, for want of numbers: {', '.join(missing)}."


def missing_heads(table: pd.DataFrame, costs: Sequence[str]) -> list[str]:
    """Heads that no plot of the costs shows, with how they ended."""
    shown = {head for cost in costs for head in plottable(table, cost)["head"]}
    return [
        f"{head} ({status_text(status)})" if status != "done" else str(head)
        for head, status in zip(table["head"], table["status"], strict=True)
        if head not in shown
    ]


def _cost_sentences(table: pd.DataFrame, costs: Sequence[str]) -> Iterator[str]:
    first = table.iloc[0]
    if first["input"]:
        yield f"Costs of the {first['scope']} at input {first['input']}."
    rounds = int(table["latency_rounds"].max())
    if "latency_ms" in costs and rounds:
        yield f"Latency: median of {rounds} rounds on {first['device']}, bars at the quartiles."
        yield from _width_sentences(table)
    if any(cost.endswith("memory_bytes") for cost in costs):
        yield "Memory: predicted, so without a spread."
    if any(cost.endswith(("macs", "parameters")) for cost in costs):
        yield "Counts are exact."


def _width_sentences(table: pd.DataFrame) -> Iterator[str]:
    """Latencies that vary so much that smaller differences between them say little."""
    widths = (table["latency_q3_ms"] - table["latency_q1_ms"]) / table["latency_ms"]
    wide = [
        f"{head} {percent(width, 0)}"
        for head, width in zip(table["head"], widths, strict=True)
        if width > WIDE_QUARTILES
    ]
    if wide:
        yield (
            f"Wide quartiles, in % of the median: {', '.join(wide)}; smaller differences in "
            "latency say little, ratios within a round more."
        )


def _point(row: Row, cost: str, ranking: Ranking | None, profile: ProfileRecord | None) -> Point:
    column, head = COST_COLUMNS[cost], str(row["head"])
    ranked = ranking.find(head) if ranking else None
    seeds = tuple(ranked.seeds.values) if ranked else (row["miou_min"], row["miou_max"])
    low, high = _quartiles(row, cost, profile)
    interval = ranked.miou if ranked else Interval(row["miou"], math.nan, math.nan)
    miou = f"mIoU {percent(row['miou'])} %"
    value = f"{COSTS[cost]}: {significant(column.scale * row[cost])} {column.unit}"
    if not math.isnan(interval.low):
        miou += f" ({between(interval)})"
    if not math.isnan(low):
        value += f" (quartiles {significant(low)}–{significant(high)})"
    return Point(
        head=head,
        cost=column.scale * row[cost],
        score=100 * row["miou"],
        cost_ends=None if math.isnan(low) else (low, high),
        score_ends=_percent(interval),
        seeds=[100 * value for value in seeds] if row["seeds"] > 1 else [],
        tip="\n".join([head, miou, value, f"Seeds: {int(row['seeds'])}"]),
    )


def _percent(interval: Interval) -> Ends | None:
    return None if math.isnan(interval.low) else (100 * interval.low, 100 * interval.high)


def _quartiles(row: Row, cost: str, profile: ProfileRecord | None) -> tuple[float, float]:
    """Of what was timed; NaN for all else."""
    if cost == "latency_ms":
        return row["latency_q1_ms"], row["latency_q3_ms"]
    timed = head_cost(str(row["head"]), profile).train_latency_ms
    low, _, high = quartiles(timed if cost == "train_latency_ms" else ())
    return low, high
