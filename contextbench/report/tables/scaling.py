"""How costs grow with the feature size: table, exponents, break-even sizes.

Latency is that of forward passes, a median over rounds; activations are the predicted peak without
weights and input. Where nothing was timed, all that concerns latency is left out.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from contextbench.records.profiles import FormCost, HeadProfileRecord
from contextbench.report.columns import Column, write_csv
from contextbench.report.samples import is_timed, predicted, quartiles, reason, samples, timed_on
from contextbench.report.tables.sheet import Sheet, markdown_list, sheet_markdown
from contextbench.report.words import ABSENT, MEBI
from contextbench.system.files import write_text

SCOPE = "context"  # that papers count
Measure = Literal["macs", "activation_peak_bytes", "latency_ms"]

MEASURES: dict[Measure, Column] = {
    "macs": Column("macs", "MACs", "G", 1e-9),
    "activation_peak_bytes": Column("activation_peak_bytes", "activations", "MiB", 1 / MEBI),
    "latency_ms": Column("latency_ms", "latency", "ms"),
}
COUNTS = ("macs", "flops", "activation_peak_bytes")
KEYS = ["head", "implementation"]
EXPONENTS = ("head", "implementation", "measure", "exponent", "sizes")
CROSSINGS = ("implementation", "measure", "dearer", "cheaper", "pixels", "side")


def scaling_table(record: HeadProfileRecord) -> pd.DataFrame:
    """One row for each head, form and size, in the record's order; base units, NaN if missing."""
    rows = [_row(cost) for cost in record.costs]
    return pd.DataFrame(rows).assign(
        scope=SCOPE,
        channels=record.channels,
        classes=record.classes,
        dtype=record.precision.get("dtype", ""),
        timed_on=timed_on(record) if is_timed(record) else "",
    )


def exponents(record: HeadProfileRecord) -> pd.DataFrame:
    """`head, implementation, measure, exponent, sizes`: value ~ pixels ** exponent.

    The least-squares slope of log value against log pixels over the `sizes` that have a positive
    value; NaN for fewer than two different pixel counts. What has no value at all is left out.
    """
    rows = [
        (head, form, measure, _slope(curve, measure), len(curve))
        for (head, form), costs in scaling_table(record).groupby(KEYS, sort=False)
        for measure in MEASURES
        if len(curve := curve_of(costs, measure))
    ]
    return pd.DataFrame(rows, columns=list(EXPONENTS))


def break_even(record: HeadProfileRecord) -> pd.DataFrame:
    """`implementation, measure, dearer, cheaper, pixels, side`: from `pixels` on, one is dearer.

    Between the sizes that two heads share, their curves are straight in log-log; a row is a point
    where these cross, within one form. Pairs that never cross are not listed. At sizes where the
    quartiles of two latencies overlap these count as equal: crossings there would be noise. `side`
    is the root of `pixels`, height and width of a square map.
    """
    rows = [
        (form, measure, *((one, other) if sign > 0 else (other, one)), pixels, pixels**0.5)
        for form, costs in scaling_table(record).groupby("implementation", sort=False)
        for measure in MEASURES
        for (one, first), (other, second) in itertools.combinations(by_head(costs).items(), 2)
        for pixels, sign in _crossings(first, second, measure)
    ]
    return pd.DataFrame(rows, columns=list(CROSSINGS))


def scaling_sheet(record: HeadProfileRecord) -> Sheet:
    """Exponents, a row for each head and form, a column for each measure."""
    table = exponents(record)
    shown = [measure for measure in MEASURES if measure in set(table["measure"])]
    most = max(table["sizes"], default=0)
    texts: dict[tuple[str, str], dict[str, str]] = {}
    for head, form, measure, exponent, sizes in table.itertuples(index=False):
        text = ABSENT if math.isnan(exponent) else f"{exponent:.2f}"
        few = f" ({sizes})" if sizes < most else ""
        texts.setdefault((head, form), {})[measure] = text + few
    header = ["head", "form", *(f"{MEASURES[measure].title} exponent" for measure in shown)]
    rows = [[*key, *(each.get(m, ABSENT) for m in shown)] for key, each in texts.items()]
    return Sheet.plain(header, rows, _legend(record), left=["form"])


def scaling_markdown(record: HeadProfileRecord) -> str:
    """Exponents, break-even sizes, and how to read them."""
    sheet = scaling_sheet(record)
    sections = [
        "# Cost against feature size",
        markdown_list(sheet.explanations),
        "## Exponents of the number of pixels",
        sheet_markdown(Sheet(sheet.headings, sheet.rows, left=sheet.left)).strip(),
    ]
    crossings = break_even(record)
    if len(crossings):
        header = ["form", "measure", "dearer", "than", "from height and width (feature pixels)"]
        rows = [
            [form, MEASURES[measure].title, dearer, cheaper, f"{side:.0f}"]
            for form, measure, dearer, cheaper, _, side in crossings.itertuples(index=False)
        ]
        table = sheet_markdown(Sheet.plain(header, rows, left=header[:4])).strip()
        sections += ["## Sizes from which one head is dearer than another", table]
        if is_timed(record):
            sections.append("Latencies whose quartiles overlap at a size count as equal there.")
    return "\n\n".join(sections) + "\n"


def write_scaling(record: HeadProfileRecord, folder: Path) -> list[Path]:
    """Write `scaling.csv`, `exponents.csv`, `break_even.csv` and `scaling.md`; the paths."""
    tables = {
        "scaling.csv": scaling_table(record),
        "exponents.csv": exponents(record),
        "break_even.csv": break_even(record),
    }
    for name, table in tables.items():
        write_csv(table, folder / name, COUNTS)
    write_text(folder / "scaling.md", scaling_markdown(record))
    return [*(folder / name for name in tables), folder / "scaling.md"]


def by_head(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Head -> its rows, in the table's order."""
    return {str(head): rows for head, rows in table.groupby("head", sort=False)}


def curve_of(costs: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """The rows of one head and form that have a positive value, by rising size."""
    return costs[costs[measure] > 0].sort_values("pixels", kind="stable")


def _row(cost: FormCost) -> dict[str, Any]:
    counts, times = predicted(cost, SCOPE), samples(cost, SCOPE)
    first_quartile, median, third_quartile = quartiles(times)
    return {
        "head": cost.head,
        "implementation": cost.implementation,
        "height": cost.height,
        "width": cost.width,
        "pixels": cost.height * cost.width,
        "macs": counts.macs,
        "flops": 2 * counts.macs,
        "activation_peak_bytes": counts.activation_peak_bytes,
        "latency_ms": median,
        "latency_q1_ms": first_quartile,
        "latency_q3_ms": third_quartile,
        "latency_rounds": len(times),
        "reason": reason(cost),
    }


def _slope(curve: pd.DataFrame, measure: Measure) -> float:
    x, y = np.log(curve["pixels"].to_numpy()), np.log(curve[measure].to_numpy())
    spread = float(((x - x.mean()) ** 2).sum())
    return float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread else math.nan


def _crossings(
    one: pd.DataFrame, other: pd.DataFrame, measure: Measure
) -> Iterator[tuple[float, int]]:
    """Pixels from which the sign of log(one / other) differs from before, and that sign."""
    both = curve_of(one, measure).merge(
        curve_of(other, measure), on=["height", "width", "pixels"], suffixes=("", "_other")
    )
    pixels = np.log(both["pixels"].to_numpy())
    gaps = np.log((both[measure] / both[f"{measure}_other"]).to_numpy())
    if measure == "latency_ms":
        apart = (both["latency_q1_ms"] > both["latency_q3_ms_other"]) | (
            both["latency_q1_ms_other"] > both["latency_q3_ms"]
        )
        gaps = np.where(apart, gaps, 0.0)
    for before, after in itertools.pairwise(np.flatnonzero(gaps)):
        if gaps[before] * gaps[after] < 0:
            # Equal over several sizes: dearer from the last of these on.
            start = after - 1
            share = gaps[start] / (gaps[start] - gaps[after])
            place = pixels[start] + share * (pixels[after] - pixels[start])
            yield math.exp(place), int(math.copysign(1, gaps[after]))


def _legend(record: HeadProfileRecord) -> list[str]:
    sizes = {(cost.height, cost.width) for cost in record.costs}
    listed = ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
    lines = [
        f"Cost grows as pixels ^ exponent: least squares over {len(sizes)} feature sizes "
        f"({listed}), {record.channels} channels, scope {SCOPE}. Where fewer sizes have a number, "
        "theirs is in brackets.",
        "Activations: predicted peak without weights and input.",
    ]
    if is_timed(record):
        lines.append(f"Latency: forward pass, median of {timed_on(record)}.")
    failed = [
        f"{cost.head} ({cost.implementation}) at {cost.height}x{cost.width}: {reason(cost)}"
        for cost in record.costs
        if cost.failure
    ]
    return [*lines, *failed]
