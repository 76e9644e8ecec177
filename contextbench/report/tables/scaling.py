"""How costs grow with the feature size: table, exponents, break-even sizes.

Latency is that of forward passes, a median over rounds; activations are the predicted peak without
weights and input. Where nothing was timed, all that concerns latency is left out.
"""

import itertools
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from contextbench.records.profiles import FormCost, HeadProfileRecord
from contextbench.report.columns import Column, write_csv
from contextbench.report.samples import is_timed, predicted, quartiles, reason, samples, timed_on
from contextbench.report.tables.sheet import Sheet, markdown_list, sheet_markdown
from contextbench.report.words import ABSENT, MEBI
from contextbench.system.files import write_text

Scope = Literal["context", "head"]
Measure = Literal["macs", "activation_peak_bytes", "latency_ms"]

MEASURES: dict[Measure, Column] = {
    "macs": Column("macs", "MACs", "G", 1e-9),
    "activation_peak_bytes": Column("activation_peak_bytes", "activations", "MiB", 1 / MEBI),
    "latency_ms": Column("latency_ms", "latency", "ms"),
}
COUNTS = ("macs", "flops", "activation_peak_bytes")
EXPONENTS = ("head", "implementation", "measure", "exponent", "sizes")
CROSSINGS = ("implementation", "measure", "dearer", "cheaper", "pixels", "side")

Size = tuple[int, int]  # (height, width) of the features
Curve = dict[Size, float]
Ranges = dict[Size, tuple[float, float]]  # lower and upper end


def scaling_table(record: HeadProfileRecord, scope: Scope = "context") -> pd.DataFrame:
    """One row for each head, form and size, in the record's order; base units, NaN if missing."""
    rows = [_row(cost, scope) for cost in record.costs]
    return pd.DataFrame(rows).assign(
        scope=scope,
        channels=record.channels,
        classes=record.classes,
        dtype=record.precision.get("dtype", ""),
        timed_on=timed_on(record) if is_timed(record) else "",
    )


def exponents(record: HeadProfileRecord, scope: Scope = "context") -> pd.DataFrame:
    """`head, implementation, measure, exponent, sizes`: value ~ pixels ** exponent.

    The least-squares slope of log value against log pixels over the `sizes` that have a positive
    value; NaN for fewer than two different pixel counts. What has no value at all is left out.
    """
    rows = [
        (*key, measure, _slope(curve), len(curve))
        for key, curves in curves_of(scaling_table(record, scope)).items()
        for measure, curve in curves.items()
        if curve
    ]
    return pd.DataFrame(rows, columns=list(EXPONENTS))


def break_even(record: HeadProfileRecord, scope: Scope = "context") -> pd.DataFrame:
    """`implementation, measure, dearer, cheaper, pixels, side`: from `pixels` on, one is dearer.

    Between the sizes that two heads share, their curves are straight in log-log; a row is a point
    where these cross, within one form. Pairs that never cross are not listed. At sizes where the
    quartiles of two latencies overlap these count as equal: crossings there would be noise. `side`
    is the root of `pixels`, height and width of a square map.
    """
    table = scaling_table(record, scope)
    curves, ranges = curves_of(table), _quartile_ranges(table)
    rows = [
        (form, measure, one if sign > 0 else other, other if sign > 0 else one, pixels, pixels**0.5)
        for form in dict.fromkeys(form for _, form in curves)
        for measure in MEASURES
        for one, other in itertools.combinations([h for h, f in curves if f == form], 2)
        for pixels, sign in _crossings(
            curves[one, form][measure],
            curves[other, form][measure],
            _overlaps(ranges[one, form], ranges[other, form]) if measure == "latency_ms" else (),
        )
    ]
    return pd.DataFrame(rows, columns=list(CROSSINGS))


def scaling_sheet(record: HeadProfileRecord, scope: Scope = "context") -> Sheet:
    """Exponents, a row for each head and form, a column for each measure."""
    table = exponents(record, scope)
    shown = [measure for measure in MEASURES if measure in set(table["measure"])]
    most = max(table["sizes"], default=0)
    texts: dict[tuple[str, str], dict[str, str]] = {}
    for head, form, measure, exponent, sizes in table.itertuples(index=False):
        text = ABSENT if math.isnan(exponent) else f"{exponent:.2f}"
        few = f" ({sizes})" if sizes < most else ""
        texts.setdefault((head, form), {})[measure] = text + few
    header = ["head", "form", *(f"{MEASURES[measure].title} exponent" for measure in shown)]
    rows = [[*key, *(each.get(m, ABSENT) for m in shown)] for key, each in texts.items()]
    return Sheet.plain(header, rows, _legend(record, scope), left=["form"])


def scaling_markdown(record: HeadProfileRecord, scope: Scope = "context") -> str:
    """Exponents, break-even sizes, and how to read them."""
    sheet = scaling_sheet(record, scope)
    sections = [
        "# Cost against feature size",
        markdown_list(sheet.explanations),
        "## Exponents of the number of pixels",
        sheet_markdown(Sheet(sheet.headings, sheet.rows, left=sheet.left)).strip(),
    ]
    crossings = break_even(record, scope)
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


def write_scaling(record: HeadProfileRecord, folder: Path, scope: Scope = "context") -> list[Path]:
    """Write `scaling.csv`, `exponents.csv`, `break_even.csv` and `scaling.md`; the paths."""
    tables = {
        "scaling.csv": scaling_table(record, scope),
        "exponents.csv": exponents(record, scope),
        "break_even.csv": break_even(record, scope),
    }
    for name, table in tables.items():
        write_csv(table, folder / name, COUNTS)
    write_text(folder / "scaling.md", scaling_markdown(record, scope))
    return [*(folder / name for name in tables), folder / "scaling.md"]


def curves_of(table: pd.DataFrame) -> dict[tuple[str, str], dict[Measure, Curve]]:
    """(head, form), in the table's order -> measure -> positive values by rising size."""
    curves: dict[tuple[str, str], dict[Measure, Curve]] = {
        (str(head), str(form)): {measure: {} for measure in get_args(Measure)}
        for head, form in zip(table["head"], table["implementation"], strict=True)
    }
    for row in table.sort_values("pixels", kind="stable").to_dict("records"):
        for measure, curve in curves[row["head"], row["implementation"]].items():
            if row[measure] > 0:
                curve[row["height"], row["width"]] = row[measure]
    return curves


def pixels_of(curve: Iterable[Size]) -> list[int]:
    """Feature pixels of each size."""
    return [height * width for height, width in curve]


def _row(cost: FormCost, scope: Scope) -> dict[str, Any]:
    counts, times = predicted(cost, scope), samples(cost, scope)
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


def _slope(curve: Curve) -> float:
    x, y = np.log(pixels_of(curve)), np.log(list(curve.values()))
    spread = float(((x - x.mean()) ** 2).sum())
    return float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread else math.nan


def _quartile_ranges(table: pd.DataFrame) -> dict[tuple[str, str], Ranges]:
    """(head, form) -> size -> first and third quartile of the latency."""
    ranges: dict[tuple[str, str], Ranges] = {}
    for row in table.to_dict("records"):
        own = ranges.setdefault((row["head"], row["implementation"]), {})
        own[row["height"], row["width"]] = (row["latency_q1_ms"], row["latency_q3_ms"])
    return ranges


def _overlaps(one: Ranges, other: Ranges) -> set[Size]:
    """Sizes at which neither range lies wholly above the other."""
    return {
        size
        for size in one.keys() & other.keys()
        if one[size][0] <= other[size][1] and other[size][0] <= one[size][1]
    }


def _crossings(one: Curve, other: Curve, equal: Collection[Size]) -> Iterable[tuple[float, int]]:
    """Pixels from which the sign of log(one / other) differs from before, and that sign."""
    shared = [size for size in one if size in other]
    pixels = [math.log(each) for each in pixels_of(shared)]
    gaps = [0.0 if size in equal else math.log(one[size] / other[size]) for size in shared]
    known = [i for i, gap in enumerate(gaps) if gap]
    for before, after in itertools.pairwise(known):
        if gaps[before] * gaps[after] < 0:
            # Equal over several sizes: dearer from the last of these on.
            start = after - 1
            share = gaps[start] / (gaps[start] - gaps[after])
            place = pixels[start] + share * (pixels[after] - pixels[start])
            yield math.exp(place), int(math.copysign(1, gaps[after]))


def _legend(record: HeadProfileRecord, scope: Scope) -> list[str]:
    sizes = {(cost.height, cost.width) for cost in record.costs}
    listed = ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
    lines = [
        f"Cost grows as pixels ^ exponent: least squares over {len(sizes)} feature sizes "
        f"({listed}), {record.channels} channels, scope {scope}. Where fewer sizes have a number, "
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
