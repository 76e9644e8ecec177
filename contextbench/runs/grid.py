"""A grid of heads and seeds: what is missing of it is run, what is on disk is not run again.

Cells that were interrupted go on, and a cell that fails is recorded while the others go on.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.models.precision import Precision
from contextbench.records.runs import RunRecord
from contextbench.runs.cells import (
    Cell,
    Setting,
    begun_precision,
    cell_lock,
    discard_state,
    refuse_others,
    stored_run,
)
from contextbench.runs.run import run_cell, run_together
from contextbench.runs.views import with_views
from contextbench.system.locks import BusyError
from contextbench.training.execution import Execution
from contextbench.training.failures import spoils_training
from contextbench.training.processes import World

Grid = tuple[Setting, Sequence[HeadConfig]]
"""The heads that run under one protocol."""


def run_grids(
    grids: Sequence[Grid],
    seeds: Sequence[int],
    precision: Precision,
    execution: Execution,
    *,
    fresh: bool = False,
    retry_failed: bool = False,
) -> Iterator[list[RunRecord]]:
    """The records of one grid after another, with every seed; each runs when it is asked for.

    A cell that holds another configuration is refused at once, not after hours.
    """
    cells = [
        Cell(setting, head, seed, precision)
        for setting, heads in grids
        for head, seed in itertools.product(heads, seeds)
    ]
    if not fresh:
        execution.world.from_main(lambda: _refuse(cells, execution))
    options = {"fresh": fresh, "retry_failed": retry_failed}
    return (run_grid(each, heads, seeds, precision, execution, **options) for each, heads in grids)


def run_grid(
    setting: Setting,
    heads: Sequence[HeadConfig],
    seeds: Sequence[int],
    precision: Precision,
    execution: Execution,
    *,
    fresh: bool = False,
    retry_failed: bool = False,
) -> list[RunRecord]:
    """Run what is missing of heads x seeds; records of all cells, in that order.

    Cells that other processes are running come last, and are waited for.
    """
    grid = [Cell(setting, head, seed, precision) for seed in seeds for head in heads]
    _check_same_data(setting, execution.world)
    if not fresh:  # before the first run, not after hours
        execution.world.from_main(lambda: _refuse(grid, execution))
    cells = {
        f"[{number}/{len(grid)}] {cell.head.name}, seed {cell.seed}": cell
        for number, cell in enumerate(grid, 1)
    }
    records: dict[str, RunRecord] = {}
    # Two processes that wait for each other with locks in hand would never end, so what has to be
    # waited for runs by itself.
    for patience, groups in ((0.0, _groups(cells, execution)), (math.inf, [[k] for k in cells])):
        for group in groups:
            left = {label: cells[label] for label in group if label not in records}
            records.update(_run_missing(left, execution, patience, fresh, retry_failed))
    return [records[label] for label in cells]


def _groups(cells: Mapping[str, Cell], execution: Execution) -> list[list[str]]:
    """What runs at once, in order: cells of one seed if they share a backbone, others one by one.

    Several processes run everything one by one: what one of them meets ends a cell in all.
    """
    groups: dict[Any, list[str]] = {}
    for label, cell in cells.items():
        shared = cell.setting.protocol.shared_backbone == "frozen" and execution.world.size == 1
        groups.setdefault(cell.seed if shared else label, []).append(label)
    return list(groups.values())


def _run_missing(
    cells: Mapping[str, Cell],
    execution: Execution,
    patience: float,
    fresh: bool,
    retry_failed: bool,
) -> dict[str, RunRecord]:
    """The finished records of cells, but for those that another process still has."""
    world, say = execution.world, execution.reporter.say
    records: dict[str, RunRecord] = {}
    missing: dict[str, Cell] = {}
    with ExitStack() as locks:
        for label, cell in cells.items():
            try:
                locks.enter_context(cell_lock(cell, execution, patience=patience))
            except BusyError:
                say(f"{label}: another process is running it")
                continue
            record = None if fresh else world.from_main(partial(stored_run, cell, execution))
            if record is not None and (record.status == "done" or not retry_failed):
                say(f"{label}: {record.status} already")
                records[label] = with_views(cell, record, execution, retry_failed=retry_failed)
                continue
            say(label)
            precision = world.from_main(partial(_make_ready, cell, record, fresh, execution))
            missing[label] = replace(cell, precision=precision)
        found = _run_cells(list(missing.values()), execution)
        records.update(zip(missing, found, strict=True))
    for label, record in zip(missing, found, strict=True):
        if record.failure is not None:
            say(f"{label}: {record.status}: {record.failure.message}")
    return records


def _refuse(cells: Sequence[Cell], execution: Execution) -> None:
    for cell in cells:
        refuse_others(cell, execution)


def _make_ready(
    cell: Cell, record: RunRecord | None, fresh: bool, execution: Execution
) -> Precision:
    """What a cell goes on in, or begins in; what it is not to go on from is gone."""
    if fresh or spoils_training(record.failure if record else None):
        discard_state(cell, execution, quietly=fresh)
        return cell.precision
    return begun_precision(cell, execution)


def _run_cells(cells: Sequence[Cell], execution: Execution) -> list[RunRecord]:
    """Records of cells that run at once."""
    if len(cells) > 1:
        return run_together(cells, execution)
    return [run_cell(cell, execution) for cell in cells]


def _check_same_data(setting: Setting, world: World) -> None:
    """Raise `ConfigError` where a process opened other data than the first one did."""
    views = setting.protocol.evaluate
    fingerprints = world.together(lambda: [setting.view_fingerprint(view) for view in views])
    other = [rank for rank, each in enumerate(fingerprints) if each != fingerprints[0]]
    if other:
        raise ConfigError(
            f"the data of rank {', '.join(map(str, other))} differ from those of rank 0: "
            "every machine needs the same files below --data-root, and the same backbone.weights"
        )
