"""What a training is watched on: a part of a split that may be, and how it is counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from contextbench.config.files import ConfigError, nearest
from contextbench.config.fingerprints import same_images
from contextbench.config.protocols import Protocol
from contextbench.data import Facts, SegmentationDataset
from contextbench.data.part import Part
from contextbench.evaluation.counting import evaluate, evaluate_each
from contextbench.evaluation.prediction import Predictor
from contextbench.models.segmenter import Segmenter
from contextbench.records.classes import ClassTotals
from contextbench.training.execution import Execution

Open = Callable[[str], SegmentationDataset]
Show = Callable[[str], None]


def check_watch(protocol: Protocol, facts: Facts) -> None:
    """Raise `ConfigError` for a split that there is not, or that may not choose what is reported.

    Needs no files: splits and those that others contain are known facts of a dataset.
    """
    split = protocol.watched_split
    if split is None:
        return
    if split not in facts.splits:
        raise ConfigError(
            f"protocol {protocol.name}: train.watch.split {split!r}: {facts.name} has no such "
            f"split with labels; {nearest(split, facts.splits)}"
        )
    if protocol.train.keep != "best":
        return
    for key, reported in protocol.reported_splits.items():
        if single_splits(split, facts) & single_splits(reported, facts):
            raise ConfigError(_chosen_on_what_is_reported(protocol, split, key, reported))


def watched_part(
    protocol: Protocol, facts: Facts, opened: Mapping[str, SegmentationDataset], open_split: Open
) -> Part | None:
    """The images that a training is watched on, of a split that is `opened` already if it can be.

    Raises `ConfigError` as `check_watch` does, and for more images than there are; `DataError` for
    what is wrong with the files of a split.
    """
    watch, split = protocol.train.watch, protocol.watched_split
    if watch is None or split is None:
        return None
    check_watch(protocol, facts)
    whole = opened[split] if split in opened else open_split(split)
    if watch.images > len(whole):
        raise ConfigError(
            f"protocol {protocol.name}: train.watch.images {watch.images}: the split {split!r} of "
            f"{facts.name} has {len(whole)} images; allowed: 1 .. {len(whole)}"
        )
    if protocol.train.keep == "best":
        _refuse_equal(protocol, split, whole, opened)
    return Part(whole, watch.images)


def _refuse_equal(
    protocol: Protocol,
    split: str,
    whole: SegmentationDataset,
    opened: Mapping[str, SegmentationDataset],
) -> None:
    """Raise `ConfigError` where a reported split of another name has the very same images."""
    own = whole.fingerprint()
    for key, reported in protocol.reported_splits.items():
        if reported in opened and same_images(opened[reported].fingerprint(), own):
            raise ConfigError(_chosen_on_what_is_reported(protocol, split, key, reported))


def single_splits(split: str, facts: Facts) -> set[str]:
    """The splits of which one consists, itself among them."""
    parts = facts.contains.get(split, ())
    return {split}.union(*(single_splits(part, facts) for part in parts))


def _chosen_on_what_is_reported(protocol: Protocol, split: str, key: str, reported: str) -> str:
    return (
        f"protocol {protocol.name}: train.keep: best chooses weights by images of {split!r} "
        f"(train.watch.split), and {key} reports scores on {reported!r}, which has the same images:"
        " such scores are too high. Watch another split, or report another one"
    )


def counter(
    part: Part,
    predictor: Callable[[Sequence[Segmenter]], Predictor],
    execution: Execution,
    show: Show,
) -> Callable[[Sequence[Segmenter]], list[ClassTotals]]:
    """What counts a part for `Watch`, in all processes together; it stops between two images."""

    workers = execution.workers

    def progress(done: int, total: int) -> None:
        execution.stop.check()
        show(f"watching: {done} of {total} images")

    def count(models: Sequence[Segmenter]) -> list[ClassTotals]:
        applied = predictor(models)
        applied = replace(applied, config=applied.config.scoring)
        if len(models) == 1:
            world = execution.world
            found = [evaluate(applied, part, world=world, workers=workers, progress=progress)]
        else:
            found = evaluate_each(applied, part, workers=workers, progress=progress)
        return [areas.totals() for areas in found]

    return count
