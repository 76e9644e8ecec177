"""How loading and training keep pace, as tables: rates and shares are derived here."""

import math
from collections.abc import Sequence
from statistics import median

from rich.console import Group
from rich.text import Text

from contextbench.records.loading import LoaderRecord, Pace, WorkersPace
from contextbench.records.runs import NOTABLE_WAIT
from contextbench.report.tables.sheet import Sheet
from contextbench.report.words import fixed, percent


def images_per_second(paces: Sequence[Pace]) -> float:
    """Median over rounds; NaN without any."""
    return median(pace.images / pace.seconds for pace in paces) if paces else math.nan


def wait_share(paces: Sequence[Pace]) -> float:
    """Part of the time that went by waiting for data, median over rounds; NaN without any."""
    return median(pace.wait_seconds / pace.seconds for pace in paces) if paces else math.nan


def process_rate(record: LoaderRecord) -> float:
    """Images that one process loads in a second, by its stages."""
    return record.batch / sum(median(samples) for samples in record.stage_seconds.values())


def enough_workers(record: LoaderRecord) -> WorkersPace | None:
    """The fewest workers, of those measured, with which training hardly waits; None: none are."""
    loaders = sorted(record.loaders, key=lambda each: each.workers)
    return next((each for each in loaders if wait_share(each.training) <= NOTABLE_WAIT), None)


def estimated_workers(record: LoaderRecord) -> int:
    """Workers that would load as fast as training alone runs, with a core for each."""
    return math.ceil(images_per_second(record.trainer) / process_rate(record))


def verdict(record: LoaderRecord) -> str:
    """Whether the loader keeps up, in a sentence or two."""
    if not record.trainer:
        return "Training was not measured."
    rate = f"Training alone takes {images_per_second(record.trainer):.3g} images/s"
    enough = enough_workers(record)
    if enough is not None:
        share = wait_share(enough.training)
        return f"{rate}; with --workers {enough.workers} it waits {share:.0%} of the time."
    return (
        f"{rate}; with every number of workers measured it waits more than {NOTABLE_WAIT:.0%} of "
        f"the time. A process loads {process_rate(record):.3g} images/s: about "
        f"{estimated_workers(record)} workers would keep up, given a core each."
    )


def loading_console(record: LoaderRecord) -> Group:
    """Stages, numbers of workers, and what follows."""
    height, width = record.image_size
    facts = (
        f"{record.protocol_name}: {record.data}, {height}x{width}; batches of {record.batch} crops "
        f"of {record.crop[0]}x{record.crop[1]}; {record.environment.get('device')}"
    )
    parts = (Text(facts), _stage_table(record), _worker_table(record), Text(verdict(record)))
    return Group(*(line for part in parts for line in (part, Text())))


def _stage_table(record: LoaderRecord) -> Sheet:
    times = {name: median(samples) for name, samples in record.stage_seconds.items()}
    times["all"] = sum(times.values())
    rows = [
        [name, fixed(1e3 * seconds / record.batch), fixed(record.batch / seconds)]
        for name, seconds in times.items()
    ]
    return Sheet.plain(["stage, one process", "ms/image", "images/s"], rows)


def _worker_table(record: LoaderRecord) -> Sheet:
    rows = [[str(each.workers), *_rates(each.loading, each.training)] for each in record.loaders]
    header = ["workers", "loading\nimages/s", "training\nimages/s", "waiting\nfor data %"]
    if not record.trainer:
        return Sheet.plain(header[:2], [row[:2] for row in rows])
    return Sheet.plain(header, [*rows, ["training alone", *_rates([], record.trainer)]])


def _rates(loading: Sequence[Pace], training: Sequence[Pace]) -> list[str]:
    return [
        fixed(images_per_second(loading)),
        fixed(images_per_second(training)),
        percent(wait_share(training), 0),
    ]
