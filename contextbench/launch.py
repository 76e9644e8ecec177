"""A comparison whose cells are jobs: submitted once, run wherever there is room, collected here.

What is known of jobs lies beside the runs, so that the same command finds them again:

runs/<protocol>/.jobs/<head>/seed-<n>.json   job that has the cell
runs/<protocol>/.jobs/conclusion.json        job that measures costs and draws, once cells are over
runs/<protocol>/.jobs/concluded.json         digest of the records that it did that for
runs/<protocol>/.jobs/precision.json         number format and layout of the cells of all jobs
runs/<protocol>/.jobs/*_log.*                what jobs printed; the *.pkl are submitit's
"""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from contextbench.cluster import JobState, Launcher, LaunchError
from contextbench.comparison import Plan
from contextbench.config import ConfigError, Frozen, Protocol, validated
from contextbench.files import quarantine, write_json
from contextbench.interrupt import Interrupted
from contextbench.job_summary import Phase, Row, shown
from contextbench.jobs import CONCLUDED, CellJob, Conclusion, Shared, jobs_folder
from contextbench.locks import BusyError
from contextbench.precision import Precision
from contextbench.provenance import now
from contextbench.report.bundle import write_report
from contextbench.report.collection import Collection, assemble
from contextbench.report.examples import Examples, read_examples
from contextbench.results import ProfileRecord, RecordError, RunRecord, existing_run, read_profile
from contextbench.runner import (
    Cell,
    Execution,
    Setting,
    cell_lock,
    lock,
    open_setting,
    record_lost,
    stored_run,
)

STOP_SECONDS = 0.2  # between looks at whether the user wants to leave
LOG_TAIL_BYTES = 8192


class JobEnded(Exception):
    """A job ended without a record. The message says which, how, why, and where its log is."""


class Entry(Frozen):
    """A job and what it was submitted to."""

    launcher: str
    job: str
    submitted: str  # ISO 8601, UTC


@dataclass
class Watched:
    """A cell and what is known of it."""

    cell: Cell
    entry: Entry | None = None  # None: done before, or run by another process
    phase: Phase = "pending"
    detail: str = ""
    ended: bool = False  # its job was over already when it was looked at last

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


def compare_on(
    launcher: Launcher, protocol: Protocol, plan: Plan, execution: Execution, *, device: str
) -> Collection:
    """`comparison.compare` with a job for each missing cell, and one for what follows them.

    `device` is what jobs look for where they run; this process needs none. Jobs of an earlier call
    are waited for, not submitted again. Where the last job fails, the tables lack costs. Raises
    `LaunchError` where Slurm refuses, what `compare` raises, and `Interrupted` on request, which
    leaves the jobs alone.
    """
    out, root = execution.out.resolve(), execution.data_root
    execution = replace(execution, out=out, data_root=root.resolve() if root else None)
    setting = open_setting(protocol, execution.data_root)
    shared = Shared(
        protocol=protocol,
        heads=tuple(plan.heads),
        fingerprint=setting.fingerprint,
        out=out,
        data_root=execution.data_root,
        device=device,
        workers=execution.workers,
    )
    campaign = Campaign(launcher, setting, plan, shared, execution)
    with lock(execution, protocol):
        campaign.submit_missing()
    campaign.wait()
    return campaign.conclude()


class Campaign:
    """The cells of one comparison and their jobs."""

    def __init__(
        self, launcher: Launcher, setting: Setting, plan: Plan, shared: Shared, execution: Execution
    ) -> None:
        self.launcher = launcher
        self.plan = plan
        self.shared = shared
        self.execution = execution
        self.protocol = setting.protocol
        self.folder = jobs_folder(execution.out, setting.protocol)
        # What the number format is has no say in which cells there are.
        self.cells = [
            Watched(Cell(setting, head, seed, Precision()))
            for seed in plan.seeds
            for head in plan.heads
        ]

    def submit_missing(self) -> None:
        """Submit what is neither on disk nor in a job. For whoever holds the protocol's lock."""
        for watched in self.cells:
            watched.entry = self._entry(self._path(watched))
        states = self._states(self.cells)
        missing = [each for each in self.cells if self._is_free(each, states)]
        if self.plan.fresh:
            (self.execution.out / self.protocol.name / "profile.json").unlink(missing_ok=True)
        if not missing:
            return
        tasks = [CellJob(self.shared, each.cell.head, each.cell.seed) for each in missing]
        jobs = self.launcher.submit(tasks, f"contextbench {self.protocol.name}")
        for watched, job in zip(missing, jobs, strict=True):
            watched.entry = self._register(self._path(watched), job)
        self._say(f"submitted {len(jobs)} cells: {self.launcher.name} jobs {', '.join(jobs)}")

    def wait(self) -> None:
        """Until every cell has a record, those too whose job ended without one."""
        with shown(self.execution.reporter) as show:
            while True:
                left = [each for each in self.cells if not each.over]
                states = self._states(left)
                for watched in left:
                    self._look(watched, states.get(watched.entry.job) if watched.entry else None)
                show([each.row for each in self.cells])
                if all(each.over for each in self.cells):
                    return
                self._pause()

    def conclude(self) -> Collection:
        """Costs, examples, tables and figures, which a job makes; the records of all cells."""
        folders = [each.cell.folder(self.execution.out) for each in self.cells]
        runs = [run for folder in folders if (run := existing_run(folder)) is not None]
        digest = _digest(runs, self.plan)
        if self._concluded() != digest:
            self._run_conclusion(digest)
        folder = self.execution.out / self.protocol.name
        collection = assemble(self.execution.out, runs, _stored_profile(folder))
        if self._concluded() != digest:
            write_report(collection, _stored_examples(folder), folder)
        return collection

    def _is_free(self, watched: Watched, states: Mapping[str, JobState]) -> bool:
        """Whether a cell has to be submitted; what is in the way of it is removed then."""
        if watched.entry is not None and self._is_active(watched, watched.entry.job, states):
            return False
        try:
            with cell_lock(watched.cell, self.execution):
                return self._is_cleared(watched, states)
        except BusyError:  # a process that is no job has it
            watched.entry = None
            return False

    def _is_active(self, watched: Watched, job: str, states: Mapping[str, JobState]) -> bool:
        state = states.get(job)
        if state is None:
            raise LaunchError(f"{watched.label} has job {job}, whose state cannot be learnt now")
        if state.phase != "ended" and self.plan.fresh:
            raise ConfigError(
                f"{watched.label} has job {job} already, which is {state.phase}: leave out --fresh "
                f"to wait for it, or end it first: {self.launcher.cancelling([job])}"
            )
        return state.phase != "ended"

    def _is_cleared(self, watched: Watched, states: Mapping[str, JobState]) -> bool:
        """Whether a cell, whose lock is held, has nothing that is to be kept."""
        cell, plan = watched.cell, self.plan
        record = None if plan.fresh else stored_run(cell, self.execution)
        if record is not None and (record.status == "done" or not plan.retry_failed):
            return False
        if watched.entry is not None and record is None and not plan.fresh:
            lost = self._lost(watched.entry, states.get(watched.entry.job))
            self._say(f"{watched.label}: {lost}. It goes on from what was saved")
        folder = cell.folder(self.execution.out)
        if plan.fresh or record is not None:
            (folder / "resume.pt").unlink(missing_ok=True)
        (folder / "record.json").unlink(missing_ok=True)
        return True

    def _look(self, watched: Watched, state: JobState | None) -> None:
        """Bring what is known of a cell up to date; `state` is None without a job or news of it."""
        record = stored_run(watched.cell, self.execution)
        if record is not None:
            self._close(watched, record)
        elif watched.entry is not None and state is None:
            return
        elif state is not None and state.phase != "ended":
            watched.phase, watched.ended = state.phase, False
            watched.detail = state.detail or self._last_line(watched)
        elif not watched.ended:
            watched.ended = True  # a record may take a moment to arrive on a shared folder
        else:
            self._settle(watched, state)

    def _settle(self, watched: Watched, state: JobState | None) -> None:
        """Record a cell whose job left none."""
        cell, execution = watched.cell, self.execution
        try:
            with cell_lock(cell, execution):
                record = stored_run(cell, execution)
                if record is None:
                    memory = state is not None and state.detail.startswith("OUT_OF_ME")
                    record = record_lost(
                        cell,
                        execution,
                        self._lost(watched.entry, state),
                        status="out_of_memory" if memory else "interrupted",
                    )
        except BusyError:
            watched.phase, watched.detail = "running", "in a process that is not this job"
        else:
            self._close(watched, record)

    def _close(self, watched: Watched, record: RunRecord) -> None:
        phases: dict[str, Phase] = {"done": "done", "interrupted": "interrupted"}
        watched.phase = phases.get(record.status, "failed")
        watched.detail = record.failure.cause if record.failure else ""
        self._path(watched).unlink(missing_ok=True)

    def _lost(self, entry: Entry | None, state: JobState | None) -> JobEnded:
        """Why a cell has no record."""
        if entry is None:
            return JobEnded("the process that was running it ended without a record")
        log = self.launcher.log(entry.job)
        how = state.detail if state is not None and state.detail else "without a record"
        reason = last_error(_tail(log))
        where = log.relative_to(self.execution.out)
        because = f": {reason}" if reason else ""
        return JobEnded(f"{entry.launcher} job {entry.job} ended {how}{because}; see {where}")

    def _run_conclusion(self, digest: str) -> None:
        """Have a job conclude the comparison, after one of an earlier call, if there is one."""
        path = self.folder / "conclusion.json"
        entry = self._entry(path)
        if entry is not None:
            self._outlast(entry)
        if self._concluded() == digest:
            return
        [job] = self.launcher.submit(
            [Conclusion(self.shared, replace(self.plan, fresh=False), digest)],
            f"contextbench {self.protocol.name} costs",
        )
        self._say(f"costs, examples, tables and figures: {self.launcher.name} job {job}")
        entry = self._register(path, job)
        state = self._outlast(entry)
        path.unlink(missing_ok=True)
        if self._concluded() != digest:
            self._say(f"no costs were measured: {self._lost(entry, state)}")

    def _outlast(self, entry: Entry) -> JobState:
        """Wait for the end of a job."""
        over = 0
        while True:
            state = self.launcher.states([entry.job]).get(entry.job)
            over = over + 1 if state is not None and state.phase == "ended" else 0
            if state is not None and over == 2:
                return state
            self._pause()

    def _pause(self) -> None:
        """Until the next look. Raises `Interrupted` on request, and says what goes on."""
        deadline = time.monotonic() + self.launcher.poll_seconds
        while (left := deadline - time.monotonic()) > 0:
            if self.execution.stop.requested:
                self._say_goodbye()
                raise Interrupted
            time.sleep(min(STOP_SECONDS, left))

    def _say_goodbye(self) -> None:
        entries = [each.entry for each in self.cells if not each.over]
        entries.append(self._entry(self.folder / "conclusion.json"))
        jobs = [entry.job for entry in entries if entry is not None]
        if jobs:
            self._say(
                f"{len(jobs)} jobs go on: the same command, without --fresh, shows their state and "
                f"collects what they made; {self.launcher.cancelling(jobs)} ends them"
            )

    def _say(self, message: str) -> None:
        self.execution.reporter.say(message)

    def _states(self, cells: Iterable[Watched]) -> dict[str, JobState]:
        jobs = [each.entry.job for each in cells if each.entry is not None]
        return self.launcher.states(jobs) if jobs else {}

    def _path(self, watched: Watched) -> Path:
        cell = watched.cell
        return self.folder / cell.head.name / f"seed-{cell.seed}.json"

    def _register(self, path: Path, job: str) -> Entry:
        entry = Entry(launcher=self.launcher.name, job=job, submitted=now())
        write_json(path, entry.model_dump())
        return entry

    def _entry(self, path: Path) -> Entry | None:
        """The job of an earlier call, unless it is another launcher's."""
        content = _read(path)
        if content is None:
            return None
        try:
            entry = validated(Entry, content, str(path))
        except ConfigError:
            quarantine(path)
            return None
        return entry if entry.launcher == self.launcher.name else None

    def _concluded(self) -> str | None:
        content = _read(self.folder / CONCLUDED)
        return None if content is None else str(content.get("digest"))

    def _last_line(self, watched: Watched) -> str:
        """What a running job printed last."""
        if watched.entry is None:
            return ""
        lines = _tail(self.launcher.log(watched.entry.job)).split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def last_error(log: str) -> str:
    """The message of the last exception in a log, on one line; empty where there is none."""
    found = re.findall(r"^(?:\w+\.)*([A-Z]\w*(?:Error|Exception): .*)$", log, re.MULTILINE)
    return str(found[-1]) if found else ""


def _tail(path: Path) -> str:
    """The end of a log, empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _read(path: Path) -> dict[str, object] | None:
    """A JSON mapping that this module wrote; None where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        content = None
    if isinstance(content, dict):
        return content
    quarantine(path)
    return None


def _digest(runs: Iterable[RunRecord], plan: Plan) -> str:
    """Of all that a conclusion rests on."""
    heads = [head.model_dump(mode="json") for head in plan.heads]
    counts = [plan.rounds, plan.train_rounds, plan.examples]
    content = json.dumps([[run.model_dump(mode="json") for run in runs], heads, counts])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _stored_profile(folder: Path) -> ProfileRecord | None:
    path = folder / "profile.json"
    try:
        return read_profile(path) if path.exists() else None
    except RecordError:
        quarantine(path)
        return None


def _stored_examples(folder: Path) -> Examples | None:
    try:
        return read_examples(folder)
    except RecordError:
        return None
