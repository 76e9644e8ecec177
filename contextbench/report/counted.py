"""What the views of a comparison counted beside the pixels of classes, and how to get the rest."""

from collections.abc import Iterable, Mapping, Sequence

from contextbench.config.files import ConfigError, nearest
from contextbench.records.counters import CounterName
from contextbench.records.counts import Areas
from contextbench.records.runs import RunRecord
from contextbench.report.collection import Collection
from contextbench.system.errors import UserError

LISTED = 3  # runs that a message names before it counts the rest


class UncountedError(UserError, ValueError):
    """Runs whose view did not count what is asked for. The message says how to count it."""


def counters_of(collection: Collection) -> list[CounterName]:
    """What every run with counts has in the view that is seen."""
    every = [each for seeds in collection.areas.values() for each in seeds.values()]
    return [name for name in (every[0].further if every else ()) if _all_have(name, every)]


def _all_have(name: CounterName, every: Iterable[Areas]) -> bool:
    return all(name in each.further for each in every)


def view_that_counts(runs: Sequence[RunRecord], counter: CounterName) -> str | None:
    """The first view of the runs whose settings count this; None where there is none."""
    for run in runs:
        for name, view in run.views.items():
            if view.totals is not None and view.settings.get(counter):
                return name
    return None


def counted_areas(
    collection: Collection, counter: CounterName, heads: Sequence[str] = ()
) -> Mapping[str, Mapping[int, Areas]]:
    """head -> seed -> counts, of the named heads or all, with this counter.

    Raises `ConfigError` for heads that there are not, `UncountedError` where one lacks it.
    """
    known = collection.areas
    for head in heads:
        if head not in known:
            raise ConfigError(f"there is no head {head!r} with counts here; {nearest(head, known)}")
    chosen = {head: known[head] for head in (heads or known)}
    lacking = [
        f"{head} seed {seed}"
        for head, seeds in chosen.items()
        for seed, each in seeds.items()
        if counter not in each.further
    ]
    if lacking or not chosen:
        raise UncountedError(_how_to_count(collection, counter, lacking))
    return chosen


def nothing_counted(collection: Collection) -> str:
    """What to say of runs without any counter, and how to get one."""
    return (
        f"{collection.subject}: no view counted calibration, boundary or trimap, and none "
        "corrupts. Without training anew: contextbench evaluate RUN --view details "
        "--set calibration=true --set boundary=true --set trimap=true, or --view noise-3 "
        "--set corrupt.kind=noise --set corrupt.strength=3, for each run"
    )


def _how_to_count(collection: Collection, counter: CounterName, lacking: Sequence[str]) -> str:
    named = ", ".join(lacking[:LISTED]) + (
        f" and {len(lacking) - LISTED} more" if len(lacking) > LISTED else ""
    )
    other = view_that_counts(collection.runs, counter)
    have = f" View {other} of some runs does: --view {other}." if other else ""
    return (
        f"{collection.subject}: view {collection.view} did not count {counter}"
        f"{f' in {named}' if named else ', or its counts cannot be used'}.{have} Without training "
        f"anew: contextbench evaluate RUN --view details --set {counter}=true, for each run, then "
        "--view details"
    )
