"""What is wrong with a dataset, found before training: every fault, not only the first.

Axes: (H, W) image pixels, K classes.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contextbench.data import DatasetOptions, dataset_source
from contextbench.data.base import IGNORE, DataError, SegmentationDataset, Source
from contextbench.data.findings import Finding, findings
from contextbench.data.labels import Colour
from contextbench.data.paired import IncompleteSplit, MissingFiles, PairedDataset
from contextbench.data.sheet import contact_sheet, spread
from contextbench.system.console import Reporter

_SHOWN_VALUES = 12


class CheckedDataset(DatasetOptions, Protocol):
    """The part of a protocol file that describes the dataset and names its two splits."""

    @property
    def train(self) -> str: ...
    @property
    def evaluate(self) -> str: ...


def _numerically(shown: str) -> tuple[int, str]:
    """Orders "7" before "10", and colours, which are of one length."""
    return len(shown), shown


@dataclass
class SplitReport:
    """What one split holds. `pixels` counts those of each train id."""

    split: str
    classes: tuple[str, ...]
    images: int = 0  # in the split
    checked: int = 0  # of these
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (H, W) -> images
    image_modes: Counter[str] = field(default_factory=Counter)
    mask_modes: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)  # how files were read -> images
    palettes: dict[int, dict[Colour, str]] = field(default_factory=dict)  # index -> colour -> image
    raw_values: Counter[str] = field(default_factory=Counter)  # raw value -> pixels
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    ignored_pixels: int = 0
    entirely_ignored: list[str] = field(default_factory=list)  # image names
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)  # image name -> digest of its pixels

    @property
    def ignored_share(self) -> float:
        """Ignored pixels over all pixels, a fraction; 0 for a split without readable masks."""
        pixels = int(self.pixels.sum()) + self.ignored_pixels
        return self.ignored_pixels / pixels if pixels else 0.0

    @property
    def shares(self) -> dict[str, float]:
        """Pixels of each class over all labelled pixels, fractions."""
        total = max(int(self.pixels.sum()), 1)
        return {
            name: int(count) / total for name, count in zip(self.classes, self.pixels, strict=True)
        }

    @property
    def absent_classes(self) -> tuple[str, ...]:
        """Classes that no pixel has."""
        return tuple(name for name, share in self.shares.items() if not share)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the digests, in types that JSON knows."""
        return {
            "split": self.split,
            "images": self.images,
            "checked": self.checked,
            "sizes": {f"{h}x{w}": count for (h, w), count in sorted(self.sizes.items())},
            "image_modes": dict(self.image_modes),
            "mask_modes": dict(self.mask_modes),
            "raw_values": {
                value: self.raw_values[value] for value in sorted(self.raw_values, key=_numerically)
            },
            "pixels": dict(zip(self.classes, self.pixels.tolist(), strict=True)),
            "shares": self.shares,
            "ignored_share": self.ignored_share,
            "entirely_ignored": list(self.entirely_ignored),
            "absent_classes": list(self.absent_classes),
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class DatasetReport:
    """All splits of a dataset, and what is wrong between them."""

    dataset: str
    splits: list[SplitReport]
    overlap: list[str]
    never: list[str]  # about classes that occur in no split
    notes: list[str] = field(default_factory=list)  # about what is no fault between splits

    @property
    def sound(self) -> bool:
        return not (self.overlap or self.never or any(split.problems for split in self.splits))

    def as_dict(self) -> dict[str, Any]:
        """In types that JSON knows."""
        return {
            "dataset": self.dataset,
            "splits": [split.as_dict() for split in self.splits],
            "overlap": list(self.overlap),
            "never": list(self.never),
            "notes": list(self.notes),
        }


def check_config(
    config: CheckedDataset,
    data_root: Path | None,
    *,
    further: Sequence[str] = (),
    limit: int | None = None,
    sheet: Path | None = None,
    reporter: Reporter | None = None,
    verify: bool = False,
) -> DatasetReport:
    """Check every split that exists, and write a contact sheet of the evaluated one to `sheet`.

    A split that is the union of others, such as trainval, is looked at only if the protocol uses
    it; `further` splits are those of its views. `limit` images spread over each split are read,
    None for all of them. `verify` reads all files again and compares them with the digests that
    are remembered. Raises `DataError` for a split of the protocol that is unknown or not there at
    all.
    """
    source = dataset_source(config, data_root)
    used = tuple(dict.fromkeys((config.train, config.evaluate, *further)))
    reports = []
    for split in _splits(source, used):
        opened = _opened(source, split, required=split in used)
        if opened is None:
            continue
        dataset, report = opened
        reports.append(report)
        if dataset is not None:
            _read(dataset, report, limit, reporter or Reporter())
            _check_sizes(report, source.facts.size)
        if verify and isinstance(dataset, PairedDataset):
            _verify(dataset, report)
        if dataset is not None and sheet is not None and split == config.evaluate:
            _draw(dataset, report, sheet)
    expected, notes = _shared_by_definition(source, used), []
    if not source.facts.global_names:
        notes = _equal_names(reports, expected)
    overlap = check_overlap(*reports, expected=expected, names_tell=source.facts.global_names)
    return DatasetReport(source.facts.name, reports, overlap, _never(reports), notes)


def _verify(dataset: PairedDataset, report: SplitReport) -> None:
    changed = dataset.verify()
    report.problems += [
        f"{path}: its content has changed, though its size and dates have not: results that are "
        "said to be of these data may be of others"
        for path in changed
    ]
    report.notes.append("all files were read again and compared with their remembered digests")


def _read(
    dataset: SegmentationDataset, report: SplitReport, limit: int | None, reporter: Reporter
) -> None:
    count = len(spread(len(dataset), limit))
    with reporter.task(f"check {report.split}", count) as update:
        examine(dataset, report, limit, progress=lambda done: update(done, ""))


def _draw(dataset: SegmentationDataset, report: SplitReport, sheet: Path) -> None:
    try:
        contact_sheet(dataset, sheet)
    except DataError as error:
        report.problems.append(str(error))


def _splits(source: Source, used: Sequence[str]) -> list[str]:
    """The splits to look at, those of the protocol first."""
    facts = source.facts
    return list(
        dict.fromkeys([*used, *(name for name in facts.splits if name not in facts.contains)])
    )


def _opened(
    source: Source, split: str, *, required: bool
) -> tuple[SegmentationDataset | None, SplitReport] | None:
    """A split, if it can be opened, and its report; None for one that is not there."""
    classes = source.facts.labels.classes
    report = SplitReport(split, classes, pixels=np.zeros(len(classes), dtype=np.int64))
    dataset: SegmentationDataset | None = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            dataset = source.open(split)
        except MissingFiles:
            if required:
                raise
            return None
        except IncompleteSplit as error:
            dataset = error.complete
            report.problems += error.missing
        except DataError as error:
            if split not in source.facts.splits:
                raise
            report.problems.append(str(error))
    report.notes += [str(warning.message) for warning in caught]
    if isinstance(dataset, PairedDataset):
        report.notes += dataset.notes
    return dataset, report


def check_dataset(
    dataset: SegmentationDataset, split: str, limit: int | None = None
) -> SplitReport:
    """Read every image of a split, or `limit` spread over it, and report what was found."""
    classes = dataset.labels.classes
    report = SplitReport(split, classes, pixels=np.zeros(len(classes), dtype=np.int64))
    examine(dataset, report, limit)
    return report


def examine(
    dataset: SegmentationDataset,
    report: SplitReport,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Add to `report` what the images of `dataset` show. `progress` is told the images done."""
    if len(report.classes) != len(dataset.labels.palette):
        colours = len(dataset.labels.palette)
        report.problems.append(f"{len(report.classes)} classes, {colours} colours")
    report.images = len(dataset)
    for finding in findings(dataset, spread(len(dataset), limit)):
        _add(report, finding)
        if progress is not None:
            progress(report.checked)
    report.problems += [f"every pixel is ignored in {name}" for name in report.entirely_ignored]
    report.notes += [f"{count} {remark}" for remark, count in report.remarks.items()]
    report.notes += _copies(report)
    _compare_palettes(report)


def _compare_palettes(report: SplitReport) -> None:
    """Indices count and colours do not, so that another order of the colours swaps classes."""
    indices: dict[Colour, set[int]] = {}
    for index, colours in report.palettes.items():
        for colour in colours:
            indices.setdefault(colour, set()).add(index)
    for index, colours in sorted(report.palettes.items()):
        if len(colours) < 2:
            continue
        (one, first), (other, second) = list(colours.items())[:2]
        differ = (
            f"palettes of masks differ: index {index} is {_hex(one)} in {first} and {_hex(other)} "
            f"in {second}"
        )
        if len(indices[one] | indices[other]) > 1:
            report.problems.append(
                f"{differ}, and such a colour has another index elsewhere: classes are swapped"
            )
        else:
            report.notes.append(f"{differ}; the index counts")


def _hex(colour: Colour) -> str:
    return f"#{bytes(colour).hex()}"


def _copies(report: SplitReport) -> list[str]:
    """Identical pixels within the split: a waste in training, but published sets have some."""
    first: dict[str, str] = {}
    found = []
    for name, digest in report.digests.items():
        other = first.setdefault(digest, name)
        if other != name:
            found.append(f"{name} has the same pixels as {other}")
    return found


def _add(report: SplitReport, finding: Finding) -> None:
    report.checked += 1
    report.problems += finding.faults
    if finding.size is not None:
        report.sizes[finding.size] += 1
    for modes, mode in zip(
        (report.image_modes, report.mask_modes), finding.modes or (), strict=False
    ):
        if mode:
            modes[mode] += 1
    report.remarks.update(finding.remarks)
    for index, colour in finding.palette.items():
        report.palettes.setdefault(index, {}).setdefault(colour, finding.name)
    report.raw_values.update(finding.raw)
    for train_id, count in finding.labels.items():
        if train_id < len(report.classes):
            report.pixels[train_id] += count
    report.ignored_pixels += finding.labels.get(IGNORE, 0)
    if set(finding.labels) == {IGNORE} and not finding.faults:
        report.entirely_ignored.append(finding.name)
    if finding.digest is not None:
        if finding.name in report.digests:
            report.problems.append(f"{finding.name}: this name occurs twice")
        report.digests[finding.name] = finding.digest


def _check_sizes(report: SplitReport, official: tuple[int, int] | None) -> None:
    """Scores at another resolution look alike and are not comparable."""
    others = sum(count for size, count in report.sizes.items() if size != official)
    if official is not None and others:
        report.problems.append(
            f"{report.split}: {others} of {report.checked} images are not of the official size "
            f"{official[0]}x{official[1]} (height x width)"
        )


def _never(reports: Sequence[SplitReport]) -> list[str]:
    """Classes without a pixel anywhere; a sample of the images cannot show that."""
    if not reports or any(report.checked < report.images for report in reports):
        return []
    present: set[str] = set()
    raw_values: set[str] = set()
    for report in reports:
        present |= set(report.classes) - set(report.absent_classes)
        raw_values |= set(report.raw_values)
    shown = ", ".join(sorted(raw_values, key=_numerically)[:_SHOWN_VALUES])
    hint = f"; raw values that occur: {shown}" if shown else ""
    return [
        f"class {name!r} occurs in no mask: is its raw value declared?{hint}"
        for name in reports[0].classes
        if name not in present
    ]


def _shared_by_definition(source: Source, used: Sequence[str]) -> set[frozenset[str]]:
    """Pairs of splits of which one contains the other, unless these two are compared."""
    pairs = {
        frozenset((union, part)) for union, parts in source.facts.contains.items() for part in parts
    }
    return pairs - {frozenset(used)}


def _equal_names(reports: Sequence[SplitReport], expected: Collection[frozenset[str]]) -> list[str]:
    """Folders are often numbered from 0 in each split."""
    notes = []
    for one, other in combinations(reports, 2):
        shared = one.digests.keys() & other.digests.keys()
        names = sorted(name for name in shared if one.digests[name] != other.digests[name])
        if names and frozenset((one.split, other.split)) not in expected:
            notes.append(
                f"{len(names)} names, such as {names[0]}, are in {one.split} and in {other.split}, "
                "with other pixels"
            )
    return notes


def check_overlap(
    *reports: SplitReport,
    expected: Collection[frozenset[str]] = (),
    names_tell: bool = True,
) -> list[str]:
    """Images in two splits: by identical pixels, or by name where `names_tell`.

    `expected` pairs of splits may share images.
    """
    names: dict[str, str] = {}  # image name -> split
    pixels: dict[str, tuple[str, str]] = {}  # digest -> split, image name
    problems = []
    for report in reports:
        for name, digest in report.digests.items():
            split, other = pixels.get(digest, (report.split, name))
            if names_tell and name in names:
                split, other = names[name], name
            if split == report.split or frozenset((split, report.split)) in expected:
                continue
            problems.append(
                f"{name} is in {split} and in {report.split}"
                if other == name
                else f"{report.split}/{name} has the same pixels as {split}/{other}"
            )
        for name, digest in report.digests.items():
            names.setdefault(name, report.split)
            pixels.setdefault(digest, (report.split, name))
    return problems
