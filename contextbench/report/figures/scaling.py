"""How costs grow with the feature size: table, exponents, break-even sizes, figure.

Latency is that of forward passes, a median over rounds; activations are the predicted peak without
weights and input. Where nothing was timed, all that concerns latency is left out.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from contextbench.records.profiles import FormCost, HeadProfileRecord
from contextbench.report.figures.labels import Ends, name_ends, room_for
from contextbench.report.figures.style import (
    BODY,
    FORMATS,
    TWO_COLUMNS,
    Format,
    head_style,
    logarithmic_axis,
    new_figure,
    save,
    style_axes,
)
from contextbench.report.tables.forms import is_timed, quartiles, reason, samples, timed_on
from contextbench.report.tables.render import (
    ABSENT,
    MEBI,
    Column,
    ConsoleTable,
    bullets,
    markdown_table,
    write_csv,
)
from contextbench.system.files import write_text

Scope = Literal["context", "head"]
Measure = Literal["macs", "activation_peak_bytes", "latency_ms"]

MEASURES: dict[Measure, Column] = {
    "macs": Column("macs", "MACs", "G", 1e-9, None),
    "activation_peak_bytes": Column("activation_peak_bytes", "activations", "MiB", 1 / MEBI, None),
    "latency_ms": Column("latency_ms", "latency", "ms", 1, None),
}
COUNTS = ("macs", "flops", "activation_peak_bytes")

Curve = dict[tuple[int, int], float]  # (height, width) of the features -> value
Ranges = dict[tuple[int, int], tuple[float, float]]  # the same -> lower and upper end


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
        {
            "head": head,
            "implementation": form,
            "measure": measure,
            "exponent": _slope(curve),
            "sizes": len(curve),
        }
        for (head, form), curves in _curves(scaling_table(record, scope)).items()
        for measure, curve in curves.items()
        if curve
    ]
    return pd.DataFrame(rows, columns=["head", "implementation", "measure", "exponent", "sizes"])


def break_even(record: HeadProfileRecord, scope: Scope = "context") -> pd.DataFrame:
    """`implementation, measure, dearer, cheaper, pixels, side`: from `pixels` on, one is dearer.

    Between the sizes that two heads share, their curves are straight in log-log; a row is a point
    where these cross, within one form. Pairs that never cross are not listed. At sizes where the
    quartiles of two latencies overlap these count as equal: crossings there would be noise. `side`
    is the root of `pixels`, height and width of a square map.
    """
    table = scaling_table(record, scope)
    curves, ranges = _curves(table), _quartile_ranges(table)
    forms = dict.fromkeys(form for _, form in curves)
    rows = [
        {
            "implementation": form,
            "measure": measure,
            "dearer": one if sign > 0 else other,
            "cheaper": other if sign > 0 else one,
            "pixels": pixels,
            "side": math.sqrt(pixels),
        }
        for form in forms
        for measure in MEASURES
        for one, other in itertools.combinations([h for h, f in curves if f == form], 2)
        for pixels, sign in _crossings(
            curves[one, form][measure],
            curves[other, form][measure],
            _overlaps(ranges[one, form], ranges[other, form]) if measure == "latency_ms" else (),
        )
    ]
    columns = ["implementation", "measure", "dearer", "cheaper", "pixels", "side"]
    return pd.DataFrame(rows, columns=columns)


def scaling_figure(
    record: HeadProfileRecord, implementation: str = "fast", scope: Scope = "context"
) -> Figure:
    """A panel for each measure that has values, log-log, a named curve a head. Two columns wide."""
    table = scaling_table(record, scope)
    table = table[table["implementation"] == implementation]
    curves = {head: each for (head, _), each in _curves(table).items()}
    panels = {
        measure: named
        for measure in MEASURES
        if (named := {head: each[measure] for head, each in curves.items() if each[measure]})
    }
    tallest = room_for(max(map(len, panels.values()), default=0))
    title = f"Cost against feature size: {implementation} form, {record.channels} channels"
    caption = _caption(record, scope, panels, curves)
    figure = new_figure(TWO_COLUMNS, 0.6 + max(1.8, tallest), title, caption)
    grid = figure.subplots(1, len(panels), squeeze=False)[0] if panels else ()
    ends = {
        axes: _draw(axes, measure, named, table)
        for axes, (measure, named) in zip(grid, panels.items(), strict=True)
    }
    name_ends(figure, ends)
    return figure


def scaling_console(record: HeadProfileRecord, scope: Scope = "context") -> ConsoleTable:
    """Exponents for a terminal."""
    header, rows = _exponent_rows(exponents(record, scope))
    return ConsoleTable(header, rows, _legend(record, scope))


def scaling_markdown(record: HeadProfileRecord, scope: Scope = "context") -> str:
    """Exponents, break-even sizes, and how to read them."""
    header, rows = _exponent_rows(exponents(record, scope))
    sections = [
        "# Cost against feature size",
        bullets(_legend(record, scope)),
        "## Exponents of the number of pixels",
        markdown_table(header, rows, left=(0, 1)),
    ]
    crossings = break_even(record, scope)
    if len(crossings):
        header, rows = _crossing_rows(crossings)
        table = markdown_table(header, rows, left=(0, 1, 2, 3))
        sections += ["## Sizes from which one head is dearer than another", table]
        if is_timed(record):
            sections.append("Latencies whose quartiles overlap at a size count as equal there.")
    return "\n\n".join(sections) + "\n"


def write_scaling(
    record: HeadProfileRecord,
    folder: Path,
    scope: Scope = "context",
    *,
    formats: Sequence[Format] = FORMATS,
) -> list[Path]:
    """Write `scaling.csv`, `exponents.csv`, `break_even.csv`, `scaling.md` and a figure a form.

    The figures are `scaling-FORM`, once in each of the formats. Returns the paths.
    """
    tables = {
        "scaling.csv": scaling_table(record, scope),
        "exponents.csv": exponents(record, scope),
        "break_even.csv": break_even(record, scope),
    }
    for name, table in tables.items():
        write_csv(table, folder / name, COUNTS)
    write_text(folder / "scaling.md", scaling_markdown(record, scope))
    written = [*(folder / name for name in tables), folder / "scaling.md"]
    for form in dict.fromkeys(cost.implementation for cost in record.costs):
        written += save(scaling_figure(record, form, scope), folder, f"scaling-{form}", formats)
    return written


def _row(cost: FormCost, scope: Scope) -> dict[str, Any]:
    counts, memory = cost.counts.get(scope), cost.memory.get(scope)
    macs = float(counts.macs) if counts else math.nan
    times = samples(cost, scope)
    first_quartile, median, third_quartile = quartiles(times)
    return {
        "head": cost.head,
        "implementation": cost.implementation,
        "height": cost.height,
        "width": cost.width,
        "pixels": cost.height * cost.width,
        "macs": macs,
        "flops": 2 * macs,
        "activation_peak_bytes": float(memory.activation_peak_bytes) if memory else math.nan,
        "latency_ms": median,
        "latency_q1_ms": first_quartile,
        "latency_q3_ms": third_quartile,
        "latency_rounds": len(times),
        "reason": reason(cost),
    }


def _curves(table: pd.DataFrame) -> dict[tuple[str, str], dict[Measure, Curve]]:
    """(head, form), in the table's order -> measure -> positive values by rising size."""
    curves: dict[tuple[str, str], dict[Measure, Curve]] = {
        (str(head), str(form)): {measure: {} for measure in MEASURES}
        for head, form in zip(table["head"], table["implementation"], strict=True)
    }
    for row in table.sort_values("pixels", kind="stable").to_dict("records"):
        for measure, curve in curves[row["head"], row["implementation"]].items():
            if row[measure] > 0:
                curve[row["height"], row["width"]] = row[measure]
    return curves


def _slope(curve: Curve) -> float:
    x, y = _logarithms(curve)
    spread = float(((x - x.mean()) ** 2).sum())
    return float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread else math.nan


def _logarithms(curve: Curve) -> tuple[Any, Any]:
    return np.log(_pixels(curve)), np.log(list(curve.values()))


def _quartile_ranges(table: pd.DataFrame) -> dict[tuple[str, str], Ranges]:
    """(head, form) -> size -> first and third quartile of the latency."""
    ranges: dict[tuple[str, str], Ranges] = {}
    for row in table.to_dict("records"):
        own = ranges.setdefault((row["head"], row["implementation"]), {})
        own[row["height"], row["width"]] = (row["latency_q1_ms"], row["latency_q3_ms"])
    return ranges


def _overlaps(one: Ranges, other: Ranges) -> set[tuple[int, int]]:
    """Sizes at which neither range lies wholly above the other."""
    return {
        size
        for size in one.keys() & other.keys()
        if one[size][0] <= other[size][1] and other[size][0] <= one[size][1]
    }


def _crossings(
    one: Curve, other: Curve, equal: Collection[tuple[int, int]]
) -> Iterable[tuple[float, int]]:
    """Pixels from which the sign of log(one / other) differs from before, and that sign."""
    shared = [size for size in one if size in other]
    pixels = [math.log(height * width) for height, width in shared]
    gaps = [0.0 if size in equal else math.log(one[size] / other[size]) for size in shared]
    known = [i for i, gap in enumerate(gaps) if gap]
    for before, after in itertools.pairwise(known):
        if gaps[before] * gaps[after] < 0:
            # Equal over several sizes: dearer from the last of these on.
            start = after - 1
            share = gaps[start] / (gaps[start] - gaps[after])
            place = pixels[start] + share * (pixels[after] - pixels[start])
            yield math.exp(place), int(math.copysign(1, gaps[after]))


def _draw(axes: Axes, measure: Measure, curves: Mapping[str, Curve], table: pd.DataFrame) -> Ends:
    """Curves with markers, quartiles of latency as bars; returns where the curves end."""
    column = MEASURES[measure]
    logarithmic_axis(axes, "y")
    axes.set_ylim(_limits([v * column.scale for curve in curves.values() for v in curve.values()]))
    _size_axis(axes, {size for curve in curves.values() for size in curve})
    axes.set_ylabel(f"{column.title[0].upper()}{column.title[1:]} ({column.unit})", size=BODY)
    for head, curve in curves.items():
        style = head_style(head)
        values = [value * column.scale for value in curve.values()]
        axes.plot(
            _pixels(curve), values, color=style.colour, linestyle=style.line, linewidth=1.0,
            marker=style.marker, markersize=3.5, markeredgewidth=0, zorder=3,
        )  # fmt: skip
        if measure == "latency_ms":
            rows = table[(table["head"] == head) & (table["latency_ms"] > 0)]
            bars = (rows["pixels"], rows["latency_q1_ms"], rows["latency_q3_ms"])
            axes.vlines(*bars, color=style.colour, linewidth=0.8, zorder=2)
    return {
        head: (_pixels(curve)[-1], list(curve.values())[-1] * column.scale)
        for head, curve in curves.items()
    }


def _size_axis(axes: Axes, sizes: Iterable[tuple[int, int]]) -> None:
    """One tick a size, at its number of pixels."""
    by_pixels = {height * width: (height, width) for height, width in sorted(sizes)}
    square = all(height == width for height, width in by_pixels.values())
    label = "Height and width of features" if square else "Height × width of features"
    style_axes(axes, label, "")
    texts = [str(h) if square else f"{h}×{w}" for h, w in by_pixels.values()]
    axes.set_xscale("log")
    axes.set_xlim(_limits(by_pixels))
    axes.set_xticks(list(by_pixels), texts)
    axes.xaxis.set_minor_locator(NullLocator())


def _limits(values: Collection[float]) -> tuple[float, float]:
    """Of a logarithmic axis: a twentieth more than the values span, or a tenth of one value."""
    low, high = min(values), max(values)
    margin = max(1.1, (high / low) ** 0.05)
    return low / margin, high * margin


def _pixels(curve: Curve) -> list[int]:
    return [height * width for height, width in curve]


def _caption(
    record: HeadProfileRecord,
    scope: Scope,
    panels: Mapping[Measure, Mapping[str, Curve]],
    heads: Iterable[str],
) -> str:
    sentences = [f"Scope {scope}, batch 1."]
    if "activation_peak_bytes" in panels:
        sentences.append("Activations: predicted peak without weights and input.")
    if "latency_ms" in panels:
        sentences.append(f"Latency: forward pass, median and quartiles of {timed_on(record)}.")
    missing = [head for head in heads if not any(head in named for named in panels.values())]
    if missing:
        sentences.append(f"Not shown, for want of numbers: {', '.join(missing)}.")
    return " ".join(sentences)


def _legend(record: HeadProfileRecord, scope: Scope) -> list[str]:
    sizes = {(cost.height, cost.width) for cost in record.costs}
    listed = ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
    lines = [
        f"Cost ~ pixels ^ exponent: least squares over {len(sizes)} feature sizes ({listed}), "
        f"{record.channels} channels, scope {scope}. Where fewer sizes have a number, theirs is "
        "in brackets.",
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


def _exponent_rows(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """A row for each head and form, a column for each measure."""
    shown = [measure for measure in MEASURES if measure in set(table["measure"])]
    most = max(table["sizes"], default=0)
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in table.to_dict("records"):
        text = ABSENT if math.isnan(row["exponent"]) else f"{row['exponent']:.2f}"
        few = f" ({row['sizes']})" if row["sizes"] < most else ""
        cells.setdefault((row["head"], row["implementation"]), {})[row["measure"]] = text + few
    header = ["head", "form", *(f"{MEASURES[measure].title} exponent" for measure in shown)]
    rows = [[*key, *(texts.get(m, ABSENT) for m in shown)] for key, texts in cells.items()]
    return header, rows


def _crossing_rows(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    header = ["form", "measure", "dearer", "than", "from height and width (feature pixels)"]
    rows = [
        [form, MEASURES[measure].title, dearer, cheaper, f"{side:.0f}"]
        for form, measure, dearer, cheaper, side in zip(
            *(table[name] for name in ("implementation", "measure", "dearer", "cheaper", "side")),
            strict=True,
        )
    ]
    return header, rows
