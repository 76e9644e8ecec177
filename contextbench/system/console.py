"""What people see during long work: a bar with ETA on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment

from contextbench.system.text import printable

ENDLESS = 100_000  # characters in a line of a file
PLAIN_SECONDS = 15.0  # between lines of one task where there is no terminal

Update = Callable[[int, str], None]  # completed, note


class SafeConsole(Console):
    """A console on which data cannot steer the terminal: whatever is printed, it is spelled out.

    Outside a terminal there is no width, unless COLUMNS states one: a log has all columns.
    """

    def __init__(self, *, width: int | None = None, **settings: Any) -> None:
        super().__init__(width=width, **settings)
        self._width = width  # COLUMNS counts when something is printed, not when this is made

    @property
    def size(self) -> ConsoleDimensions:
        stated = self._width is not None or self._environ.get("COLUMNS", "").isdigit()
        return super().size if stated or self.is_terminal else ConsoleDimensions(ENDLESS, 25)

    @size.setter
    def size(self, new: tuple[int, int]) -> None:
        self.width, self.height = new

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """All that is printed passes here; control codes are those of `rich` itself."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


class Reporter:
    """Shows messages and tasks on one console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or SafeConsole(stderr=True)

    def say(self, message: str) -> None:
        """One line of text, taken literally."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def task(self, label: str, total: int, start: int = 0) -> Iterator[Update]:
        """A task of `total` units of which `start` are done already."""
        if not self.console.is_terminal:
            yield _plain(self, label, total, start)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console) as progress:
            identity = progress.add_task(label, total=total, completed=start, note="")

            def update(completed: int, note: str = "") -> None:
                progress.update(identity, completed=completed, note=note)

            yield update


def _plain(reporter: Reporter, label: str, total: int, start: int) -> Update:
    began = last = time.monotonic()

    def update(completed: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PLAIN_SECONDS and completed < total:
            return
        last = now
        done = max(completed - start, 1)
        remaining = (now - began) / done * (total - completed)
        reporter.say(f"{label}: {completed}/{total}, {remaining:.0f} s left, {note}".rstrip(", "))

    return update
