"""What would be enough, and heads over several protocols, as sheets and files."""

from pathlib import Path

import pandas as pd

from contextbench.report.columns import write_csv
from contextbench.report.inference import PowerPlan, aggregate_dict, aggregate_sentences
from contextbench.report.tables.sheet import Sheet, sheet_markdown
from contextbench.report.words import ends, fixed, p_value
from contextbench.statistics.aggregate import Aggregate
from contextbench.statistics.intervals import Interval
from contextbench.system.files import write_text

ENOUGH = "none is enough"


def power_sheet(plan: PowerPlan) -> Sheet:
    """A row for each pair of heads."""
    now = f"chance with {plan.ranking.images} images"
    header = ["pair", now, "limited by", "seeds needed", "images needed", "or both"]
    rows = [
        [
            f"{each.first}, {each.second}",
            f"{each.chance:.0%}",
            each.bottleneck,
            ENOUGH if each.seeds is None else str(each.seeds),
            ENOUGH if each.images is None else str(each.images),
            f"{each.both[0]} and {each.both[1]}",
        ]
        for each in plan.pairs
    ]
    return Sheet.plain(header, rows, filter(None, plan.sentences))


def aggregate_sheet(found: Aggregate) -> Sheet:
    """A row for each head that all protocols have."""
    header = ["head", "mean rank", f"difference to {found.baseline}, points", "p-value"]
    rows = [
        [
            each.head,
            _with_ends(each.rank, 1, 1),
            "baseline" if each.head == found.baseline else _with_ends(each.difference, 100, 2),
            p_value(each.holm_p_value),
            *(fixed(place) for place in each.ranks),
        ]
        for each in found.heads
    ]
    ranks = [f"rank on {name}" for name in found.protocols]
    return Sheet.plain([*header, *ranks], rows, filter(None, aggregate_sentences(found)))


def write_aggregate(found: Aggregate, folder: Path) -> list[Path]:
    """Write `aggregate.md`, and `aggregate.csv` in base units; the paths."""
    page, table = folder / "aggregate.md", folder / "aggregate.csv"
    title = f"# Heads over {', '.join(found.protocols)}\n\n"
    write_text(page, title + sheet_markdown(aggregate_sheet(found)))
    write_csv(pd.json_normalize(aggregate_dict(found)["heads"]), table, ())
    return [page, table]


def _with_ends(interval: Interval, scale: float, decimals: int) -> str:
    def write(value: float) -> str:
        return fixed(scale * value, decimals)

    return f"{write(interval.estimate)} {ends(interval, write=write)}".strip()
