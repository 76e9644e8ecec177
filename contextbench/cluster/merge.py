"""Runs of several machines in one new folder. No torch.

What belongs to a cell is copied as it is. What machines measured for themselves (`profile.json`,
`precision.json`, examples) is taken where only one of them has it, or all have the same; tables,
figures and what belongs to jobs are left behind, since they are made again from the rest.
"""

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from contextbench.config.files import ConfigError
from contextbench.records.comparability import (
    MixedProtocolsError,
    by_head,
    check_comparable,
    warnings_for,
)
from contextbench.records.counts import areas_of
from contextbench.records.profiles import ProfileRecord, read_profile
from contextbench.records.runs import RunRecord, cell_folder, damage, find_runs, read_run
from contextbench.records.stored import RecordError
from contextbench.system.errors import UserError
from contextbench.system.files import OutputError, clear_leftovers, temporary_path

CELL_FILES = (
    "config.yaml",
    "history.jsonl",
    "checkpoint.safetensors",
    "resume.pt",
    "record.json",
)  # besides the counts of each view
SHARED_FILES = ("precision.json", "class_pixels.json", "profile.json")
EXAMPLES = "examples"


class MergeError(UserError, ValueError):
    """Runs that cannot be joined. The message names the two that disagree."""


@dataclass
class _Cell:
    """One cell and the folders that have it, which all hold the same."""

    run: RunRecord
    folders: list[Path]

    @property
    def place(self) -> Path:
        """Where it lies below the folder of runs."""
        return cell_folder(Path(), self.run.protocol_name, self.run.head_name, self.run.seed)

    @property
    def files(self) -> list[str]:
        """What may lie in its folder."""
        counts = [self.run.seen(view).counts_file for view in self.run.views]
        return [*CELL_FILES, *counts]


@dataclass
class _Joined:
    """The cells of one protocol, and the folders of the machines that they come from."""

    name: str
    cells: dict[Path, _Cell] = field(default_factory=dict)
    sources: list[Path] = field(default_factory=list)  # <runs>/<protocol> of each machine

    @property
    def runs(self) -> list[RunRecord]:
        return [cell.run for cell in self.cells.values()]


def merge(folders: Sequence[Path], out: Path) -> list[str]:
    """Copy the runs below `folders` to `out`, which must not exist; all of them or nothing.

    Returns what was joined and what a user should know of it, one line each. A folder may hold
    several protocols, or be that of one. Raises `MergeError` for a cell that two folders hold
    differently and for different protocols of one name, `RecordError` for records that cannot be
    read, `ConfigError` for folders that do not fit, and `OutputError` where `out` cannot be
    written.
    """
    _check_folders(folders, out)
    protocols: dict[str, _Joined] = {}
    for folder in folders:
        cells = find_runs(folder)
        if not cells:
            raise RecordError(f"{folder}: there is no record.json below this folder")
        for cell in cells:
            _add(protocols, cell)
    lines: list[str] = []
    with _filled(out) as target:
        for name, joined in sorted(protocols.items()):
            left = _copy(joined, target)
            costs = target / name / "profile.json"
            lines += _told(joined, out, read_profile(costs) if costs.exists() else None, left)
    return lines


def _check_folders(folders: Sequence[Path], out: Path) -> None:
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise ConfigError("merge needs two or more different folders of runs")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} exists already: choose a new folder")
    for folder in folders:
        if out.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"--out {out} lies in {folder}, whose runs it would hold twice")


def _add(protocols: dict[str, _Joined], folder: Path) -> None:
    """Take in one cell. Raises `MergeError` where it does not fit those before it."""
    run = read_run(folder / "record.json")
    _check_files(run, folder)
    cell = _Cell(run, [folder])
    joined = protocols.setdefault(run.protocol_name, _Joined(run.protocol_name))
    same = joined.cells.get(cell.place)
    if same is not None:
        _check_same(same, cell)
        same.folders.append(folder)
    else:
        _check_fits(joined, cell)
        joined.cells[cell.place] = cell
    source = folder.parent.parent
    if source not in joined.sources:
        joined.sources.append(source)


def _check_files(run: RunRecord, folder: Path) -> None:
    """Raise `RecordError` for files that are not those of the record."""
    for name in run.files:
        damaged = damage(folder, run, name) if (folder / name).exists() else None
        if damaged is not None:
            raise RecordError(damaged)
    for view in run.views:
        seen = run.seen(view)
        if seen.totals is None or not (folder / seen.counts_file).exists():
            continue
        try:
            areas_of(folder, seen)
        except RecordError as error:
            raise RecordError(f"{error}; a run of this cell may be under way") from error


def _check_same(one: _Cell, other: _Cell) -> None:
    first, second = one.folders[0], other.folders[0]
    if one.run != other.run:
        told = _outcome(one.run), _outcome(other.run)
        how = "their records differ" if told[0] == told[1] else f"{told[0]} there, {told[1]} here"
        raise MergeError(
            f"{first} and {second} hold different runs of one cell: {how}. Move one of them away"
        )
    for name in other.files:
        paths = [folder / name for folder in (*one.folders, second) if (folder / name).exists()]
        if len(paths) > 1 and _differ(paths[0], paths[-1]):
            raise MergeError(
                f"{paths[0]} and {paths[-1]} differ, though their records are the same"
            )


def _outcome(run: RunRecord) -> str:
    views = f", views {', '.join(run.views)}" if run.views else ""
    return f"{run.status} at step {run.steps}, finished {run.finished}{views}"


def _check_fits(joined: _Joined, cell: _Cell) -> None:
    """Against the first cell of the protocol, and the first of the same head."""
    for before in joined.cells.values():
        same_head = before.run.head_name == cell.run.head_name
        if before is not next(iter(joined.cells.values())) and not same_head:
            continue
        try:
            check_comparable([before.run, cell.run])
        except MixedProtocolsError as error:
            pair = f"{before.folders[0]} and {cell.folders[0]}"
            raise MergeError(f"{pair} cannot be joined: {error}") from error


@contextmanager
def _filled(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends well and vanishes otherwise."""
    temporary = temporary_path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(out.parent)
        temporary.mkdir()
        temporary.chmod(0o755)  # results are shared, whatever the user's mask
        yield temporary
        temporary.replace(out)
    except OSError as error:
        at = f" at {error.filename}" if error.filename else ""
        cause = f"{error.strerror or error}{at}"
        raise OutputError(f"cannot write {out}, so nothing was merged: {cause}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(joined: _Joined, target: Path) -> list[str]:
    """Copy the cells of one protocol, and what else its machines agree on; what they do not."""
    for place, cell in joined.cells.items():
        (target / place).mkdir(parents=True)
        for file in cell.files:
            found = [folder / file for folder in cell.folders if (folder / file).exists()]
            if found:
                (target / place / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(found[0], target / place / file)
    shared = target / joined.name
    left = [file for file in SHARED_FILES if not _copy_shared(joined, file, shared)]
    return left if _copy_examples(joined, shared) else [*left, EXAMPLES]


def _told(joined: _Joined, out: Path, profile: ProfileRecord | None, left: list[str]) -> list[str]:
    """What a user should know of a protocol that was joined, and how to go on with it."""
    name, heads = joined.name, by_head(joined.runs)
    lines = [_summary(joined)]
    lines += [f"note: {warning}" for warning in warnings_for(joined.runs, profile)]
    if left:
        lines.append(f"note: left out, since machines have different ones: {', '.join(left)}")
    if profile is None or not heads.keys() <= profile.heads.keys():
        # Seeds that some heads lack would be trained.
        each = [{run.seed for run in runs} for runs in heads.values()]
        seeds = sorted(set.intersection(*each) or set.union(*each))
        lines.append(
            "to measure the costs of all heads on one device: contextbench compare "
            f"--protocol {name} --heads {','.join(heads)} "
            f"--seeds {','.join(map(str, seeds))} --out {out}, with --set as in the runs"
        )
    return [*lines, f"tables and figures: contextbench plot {out / name} --out {out / name}"]


def _copy_shared(joined: _Joined, file: str, target: Path) -> bool:
    """Copy a file that the machines which have it agree on; False where they do not."""
    found = [source / file for source in joined.sources if (source / file).exists()]
    if any(_differ(found[0], other) for other in found[1:]):
        return False
    if found:
        shutil.copyfile(found[0], target / file)
    return True


def _copy_examples(joined: _Joined, target: Path) -> bool:
    found = [source / EXAMPLES for source in joined.sources if (source / EXAMPLES).is_dir()]
    if len(found) == 1:
        shutil.copytree(found[0], target / EXAMPLES, copy_function=shutil.copyfile)
    return len(found) <= 1


def _summary(joined: _Joined) -> str:
    cells = joined.cells.values()
    counts = [
        f"{sum(source in {f.parent.parent for f in cell.folders} for cell in cells)} from {source}"
        for source in joined.sources
    ]
    both = sum(len(cell.folders) > 1 for cell in cells)
    shared = f"; {both} of them in more than one, and the same" if both else ""
    return f"{joined.name}: {len(cells)} cells, {', '.join(counts)}{shared}"


def _differ(one: Path, other: Path) -> bool:
    try:
        return not filecmp.cmp(one, other, shallow=False)
    except OSError as error:
        raise RecordError(f"{error.filename}: cannot be read: {error.strerror}") from error
