"""What people see while jobs run: a table that changes on a terminal, lines elsewhere."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from rich.live import Live
from rich.table import Table
from rich.text import Text

from contextbench.system.console import Reporter

PLAIN_SECONDS = 300.0  # between lines where there is no terminal and nothing changes

Phase = Literal["pending", "running", "done", "failed", "interrupted"]
PHASES: tuple[Phase, ...] = ("pending", "running", "done", "failed", "interrupted")


@dataclass(frozen=True)
class Row:
    """One cell and its job."""

    head: str
    seed: int
    job: str  # empty where there is none
    phase: Phase
    detail: str = ""


Show = Callable[[Sequence[Row]], None]


def summary(rows: Sequence[Row]) -> str:
    """How many cells are in each phase."""
    counts = Counter(row.phase for row in rows)
    named = [phase for phase in PHASES if counts[phase] or phase != "interrupted"]
    return ", ".join(f"{counts[phase]} {phase}" for phase in named)


@contextmanager
def shown(reporter: Reporter) -> Iterator[Show]:
    """Shows the rows that it is called with, as long as the block lasts."""
    if not reporter.console.is_terminal:
        yield _Lines(reporter)
        return
    with Live(console=reporter.console, auto_refresh=False) as live:
        yield lambda rows: live.update(table(rows), refresh=True)


def table(rows: Sequence[Row]) -> Table:
    """One row a cell, under the summary."""
    drawn = Table(title=Text(summary(rows)), title_justify="left", box=None, pad_edge=False)
    for name in ("head", "seed", "job", "state", ""):
        drawn.add_column(name, no_wrap=name != "")
    for row in rows:
        cells = (row.head, str(row.seed), row.job, row.phase, row.detail)
        drawn.add_row(*(Text(cell) for cell in cells))
    return drawn


class _Lines:
    """Says the summary when it changes or time has passed, and why a cell failed."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._said = ""
        self._last = 0.0
        self._explained: set[tuple[str, int]] = set()

    def __call__(self, rows: Sequence[Row]) -> None:
        for row in rows:
            cell = (row.head, row.seed)
            if row.phase in ("failed", "interrupted") and cell not in self._explained:
                self._explained.add(cell)
                self._reporter.say(f"{row.head}, seed {row.seed}: {row.phase}: {row.detail}")
        line = f"cells: {summary(rows)}"
        now = time.monotonic()
        if line != self._said or now - self._last > PLAIN_SECONDS:
            self._said, self._last = line, now
            self._reporter.say(line)
