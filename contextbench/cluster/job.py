"""What runs inside a job: one cell of a comparison, or what follows when all cells are over.

Jobs are pickled by submitit with the plain data below, open the data where they run, and refuse
data that are not those of the submission.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from rich.console import Console

from contextbench.cluster.ledger import jobs_folder, mark_concluded, stored
from contextbench.cluster.scheduler import runs_under_slurm
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.data import DataError
from contextbench.models.compiled import check_compiles
from contextbench.models.device import device_of
from contextbench.models.precision import Precision
from contextbench.records.runs import RunRecord, existing_run
from contextbench.runs.cells import (
    Cell,
    Setting,
    begun_precision,
    cell_lock,
    lock,
    open_setting,
    stored_run,
)
from contextbench.runs.comparison import Plan, conclude, shared_precision
from contextbench.runs.run import run_cell
from contextbench.runs.views import with_views
from contextbench.system.console import Reporter
from contextbench.system.files import quarantine, write_json
from contextbench.system.interrupt import Interrupted, StopRequest
from contextbench.training.execution import Execution, keep_freed
from contextbench.training.processes import ALONE, World, joined, launched, own_device

LOCK_SECONDS = 600.0  # a node that died may keep a lock on a shared folder for some minutes

T = TypeVar("T")


@dataclass(frozen=True)
class Shared:
    """What all jobs of a comparison have in common."""

    protocol: Protocol
    heads: tuple[HeadConfig, ...]  # of the comparison: they share one number format
    fingerprint: str
    out: Path  # absolute, as the next one
    data_root: Path | None
    device: str
    workers: int
    processes: int = 1  # of each job, which train together
    track: str | None = None

    @contextmanager
    def executing(self, stop: StopRequest) -> Iterator[Execution]:
        """How this process of the job executes, connected to the others for the block.

        Raises `ConfigError` for a device that is not there or that torch cannot compile for, where
        that is wanted, `RankError` where others do not come.
        """
        world = _world(self.processes)
        place = device_of(own_device(self.device, world))
        keep_freed(place)
        if self.protocol.train.compile:
            check_compiles(place, "train.compile")
        with joined(world, place) as world:
            yield Execution(
                out=self.out,
                device=place,
                data_root=self.data_root,
                workers=self.workers,
                reporter=Reporter(None if world.is_main else Console(quiet=True)),
                stop=stop,
                world=world,
                track=self.track,
            )

    def open(self) -> Setting:
        """The data as this node has them. Raises `DataError` if they are others."""
        setting = open_setting(self.protocol, self.data_root)
        if setting.fingerprint != self.fingerprint:
            raise DataError(
                f"the data of {self.protocol.dataset.name} on this node are not those that the "
                f"comparison was submitted with: fingerprint {setting.fingerprint}, expected "
                f"{self.fingerprint}"
            )
        return setting

    def precision(self, setting: Setting, execution: Execution) -> Precision:
        """One number format and layout for the cells of all jobs, on whatever device they run.

        With precision `auto` the job that comes first times the formats, and the others wait.
        """
        wanted = self.protocol.precision
        if wanted != "auto":
            return Precision(dtype=wanted)
        path, world = jobs_folder(self.out, self.protocol) / "precision.json", execution.world
        with lock(execution, self.protocol):
            chosen = world.from_main(lambda: _stored_precision(path))
            if chosen is None:
                chosen = shared_precision(setting, self.heads, execution)
                if world.is_main:
                    write_json(path, asdict(chosen))
        return chosen


@dataclass(frozen=True)
class CellJob:
    """Runs one cell, from its resume file if there is one."""

    shared: Shared
    head: HeadConfig
    seed: int
    retry_failed: bool = False  # views that failed, of a finished run

    def __call__(self) -> str:
        """The status of the record. Raises what keeps the cell from being recorded."""
        return _leaving_on_notice(self._run)

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue."""
        return _again(self)

    def _run(self, stop: StopRequest) -> str:
        setting = self.shared.open()
        with self.shared.executing(stop) as execution:
            precision = self.shared.precision(setting, execution)
            cell = Cell(setting, self.head, self.seed, precision)
            with cell_lock(cell, execution, patience=LOCK_SECONDS):
                record = execution.world.from_main(lambda: stored_run(cell, execution))
                if record is None:
                    begun = execution.world.from_main(lambda: begun_precision(cell, execution))
                    record = run_cell(replace(cell, precision=begun), execution)
                elif record.status == "done":
                    record = with_views(cell, record, execution, retry_failed=self.retry_failed)
                return record.status


@dataclass(frozen=True)
class Conclusion:
    """Measures costs and writes examples, tables and figures, as a comparison does at its end."""

    shared: Shared
    plan: Plan
    digest: str  # of the cells' records

    def __call__(self) -> None:
        """Raises what keeps costs from being measured."""
        _leaving_on_notice(self._run)

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue."""
        return _again(self)

    def _run(self, stop: StopRequest) -> None:
        shared, plan = self.shared, self.plan
        setting = shared.open()
        with shared.executing(stop) as execution:
            precision = shared.precision(setting, execution)
            cells = [
                Cell(setting, head, seed, precision) for seed in plan.seeds for head in plan.heads
            ]
            runs = execution.world.from_main(lambda: _existing(cells, shared.out))
            conclude(setting, plan, runs, precision, execution)
            if execution.world.is_main:
                mark_concluded(jobs_folder(shared.out, shared.protocol), self.digest)


class Notice(StopRequest):
    """A stop request that remembers which signal asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.received: int | None = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # Slurm signals more than once; work is only ever left at a safe point.
        self.requested = True
        self.received = self.received or number


@contextmanager
def noticed() -> Iterator[Notice]:
    """Turn the signals with which Slurm, submitit and users end a job into a `Notice`."""
    notice = Notice()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    previous = {number: signal.signal(number, notice._handle) for number in signals}
    try:
        yield notice
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leaving_on_notice(work: Callable[[StopRequest], T]) -> T:
    """`work`, which stops at a safe point after a signal; then the signal takes effect.

    SIGUSR2 announces that the time is over, and submitit answers it: it puts the job back into the
    queue, or raises an error when it has done so often enough. SIGTERM is the end, and whether the
    job runs again is up to Slurm, unless Slurm has it as running still: then it only announces a
    preemption, and is answered likewise, since a job that just leaves counts as failed.
    """
    with noticed() as notice:
        try:
            return work(notice)
        except Interrupted:
            number = notice.received or signal.SIGTERM
    if number == signal.SIGTERM and runs_under_slurm():
        number = signal.SIGUSR2
    signal.raise_signal(number)
    raise SystemExit(128 + number)


def _world(processes: int) -> World:
    """Of the processes of this job, as submitit started them."""
    if processes == 1:
        return ALONE
    from submitit.helpers import TorchDistributedEnvironment  # of the extra `slurm`

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    return launched()


def _existing(cells: Sequence[Cell], out: Path) -> list[RunRecord]:
    found = [existing_run(cell.folder(out)) for cell in cells]
    return [run for run in found if run is not None]


def _again(job: Callable[[], object]) -> Any:
    from submitit.helpers import DelayedSubmission  # of the extra `slurm`

    return DelayedSubmission(job)


def _stored_precision(path: Path) -> Precision | None:
    content = stored(path)
    try:
        return None if content is None else Precision(**content)
    except (TypeError, ValueError) as error:
        quarantine(path, error)
        return None
