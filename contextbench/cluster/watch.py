"""Following the jobs of a comparison until each of its cells has a record."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from contextbench.cluster.job import Shared
from contextbench.cluster.ledger import CONCLUSION, Entry, Ledger
from contextbench.cluster.log import last_error, last_line
from contextbench.cluster.scheduler import JobState, Launcher
from contextbench.cluster.summary import Phase, Row, shown
from contextbench.records.runs import RunRecord
from contextbench.runs.cells import Cell, cell_lock, lacking, stored_run
from contextbench.runs.comparison import Plan
from contextbench.runs.run import record_lost
from contextbench.system.interrupt import Interrupted
from contextbench.system.locks import BusyError
from contextbench.training.execution import Execution

STOP_SECONDS = 0.2  # between looks at whether the user wants to leave


class JobEnded(Exception):
    """A job ended without a record. The message says which, how, why, and where its log is."""


@dataclass(frozen=True)
class Campaign:
    """A comparison by jobs: what is asked for, who runs it, and where that is written down."""

    launcher: Launcher
    ledger: Ledger
    plan: Plan
    shared: Shared
    execution: Execution

    def say(self, message: str) -> None:
        """One line for the user."""
        self.execution.reporter.say(message)

    def lost(self, entry: Entry | None, state: JobState | None) -> JobEnded:
        """Why there is no result of a job, or of the process that had a cell without one."""
        if entry is None:
            return JobEnded("the process that was running it ended without a record")
        log = self.launcher.log(entry.job)
        how = state.detail if state is not None and state.detail else "without a record"
        reason = last_error(log)
        because = f": {reason}" if reason else ""
        where = log.relative_to(self.shared.out)
        return JobEnded(f"{entry.launcher} job {entry.job} ended {how}{because}; see {where}")


@dataclass
class Watched:
    """A cell and what is known of it."""

    cell: Cell
    entry: Entry | None = None  # None: done before, or run by another process
    phase: Phase = "pending"
    detail: str = ""
    ended: bool = False  # its job was over already when it was looked at last

    @property
    def name(self) -> str:
        """In the ledger."""
        return f"{self.cell.head.name}/seed-{self.cell.seed}"

    @property
    def label(self) -> str:
        return f"{self.cell.head.name}, seed {self.cell.seed}"

    @property
    def over(self) -> bool:
        return self.phase in ("done", "failed", "interrupted")

    @property
    def row(self) -> Row:
        job = self.entry.job if self.entry else ""
        return Row(self.cell.head.name, self.cell.seed, job, self.phase, self.detail)


def wait_for(campaign: Campaign, cells: Sequence[Watched]) -> None:
    """Until every cell has a record, those too whose job ended without one.

    Raises `Interrupted` on request, and `OutputError` where a record cannot be written.
    """
    with shown(campaign.execution.reporter) as show:
        while True:
            left = [each for each in cells if not each.over]
            states = states_of(campaign, left)
            for watched in left:
                _look(campaign, watched, states.get(watched.entry.job) if watched.entry else None)
            show([each.row for each in cells])
            if all(each.over for each in cells):
                return
            _pause(campaign, left)


def outlast(campaign: Campaign, entry: Entry) -> JobState:
    """Wait for the end of a job. Raises `Interrupted` on request."""
    over = 0
    while True:
        state = campaign.launcher.states([entry.job]).get(entry.job)
        over = over + 1 if state is not None and state.phase == "ended" else 0
        if state is not None and over == 2:  # its files may take a moment to arrive
            return state
        _pause(campaign, [])


def states_of(campaign: Campaign, cells: Iterable[Watched]) -> dict[str, JobState]:
    """States by id of the jobs that have cells, where they can be learnt now."""
    jobs = [each.entry.job for each in cells if each.entry is not None]
    return campaign.launcher.states(jobs) if jobs else {}


def _look(campaign: Campaign, watched: Watched, state: JobState | None) -> None:
    """Bring what is known of a cell up to date; `state` is None without a job or news of it."""
    record, retry = stored_run(watched.cell, campaign.execution), campaign.plan.retry_failed
    left = lacking(record, watched.cell, retry_failed=retry) if record and watched.entry else []
    if record is not None and not left:
        _close(campaign, watched, record)
    elif watched.entry is not None and state is None:
        return
    elif watched.entry is not None and state is not None and state.phase != "ended":
        watched.phase, watched.ended = state.phase, False
        watched.detail = state.detail or last_line(campaign.launcher.log(watched.entry.job))
    elif not watched.ended:
        watched.ended = True  # a record may take a moment to arrive on a shared folder
    else:
        _settle(campaign, watched, state)


def _settle(campaign: Campaign, watched: Watched, state: JobState | None) -> None:
    """Record a cell whose job left none."""
    cell, execution = watched.cell, campaign.execution
    memory = state is not None and state.detail.startswith("OUT_OF_ME")
    try:
        with cell_lock(cell, execution):
            record = stored_run(cell, execution) or record_lost(
                cell,
                execution,
                campaign.lost(watched.entry, state),
                status="out_of_memory" if memory else "interrupted",
            )
    except BusyError:
        watched.phase, watched.detail = "running", "in a process that is not this job"
    else:
        _close(campaign, watched, record)


def _close(campaign: Campaign, watched: Watched, record: RunRecord) -> None:
    phases: dict[str, Phase] = {"done": "done", "interrupted": "interrupted"}
    watched.phase = phases.get(record.status, "failed")
    watched.detail = record.failure.cause if record.failure else ""
    campaign.ledger.remove(watched.name)


def _pause(campaign: Campaign, cells: Iterable[Watched]) -> None:
    """Until the next look. Raises `Interrupted` on request, and says what goes on."""
    deadline = time.monotonic() + campaign.launcher.poll_seconds
    while (left := deadline - time.monotonic()) > 0:
        if campaign.execution.stop.requested:
            _say_goodbye(campaign, cells)
            raise Interrupted
        time.sleep(min(STOP_SECONDS, left))


def _say_goodbye(campaign: Campaign, cells: Iterable[Watched]) -> None:
    entries = [*(each.entry for each in cells), campaign.ledger.find(CONCLUSION)]
    jobs = [entry.job for entry in entries if entry is not None]
    if jobs:
        campaign.say(
            f"jobs that go on: {len(jobs)}. The same command, without --fresh, shows their state "
            f"and collects what they made; {campaign.launcher.cancelling(jobs)} ends them"
        )
