"""A comparison by jobs: what it leaves, and what it does when jobs end in other ways than well."""

import errno
import io
import os
import re
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.cluster import conclusion as job_conclusion
from contextbench.cluster import job as jobs
from contextbench.cluster.job import CellJob, Conclusion, Shared
from contextbench.cluster.launch import compare_on
from contextbench.cluster.ledger import Ledger, jobs_folder
from contextbench.cluster.log import last_error, last_line
from contextbench.cluster.scheduler import (
    JobState,
    LaunchError,
    LocalLauncher,
    Resources,
    SlurmLauncher,
    Task,
    gigabytes,
    launcher,
    minutes,
    parse_queue,
    sbatch_options,
)
from contextbench.cluster.summary import Row, summary, table
from contextbench.config.files import ConfigError
from contextbench.data import DataError
from contextbench.models.precision import Precision
from contextbench.records.counts import read_areas
from contextbench.records.history import read_history
from contextbench.records.runs import RunRecord, read_run
from contextbench.runs import run as runner
from contextbench.runs.cells import Cell, cell_lock, open_setting
from contextbench.runs.comparison import Plan
from contextbench.runs.grid import run_grid
from contextbench.system import files
from contextbench.system.console import Reporter
from contextbench.system.interrupt import Interrupted, StopRequest
from tests import small

pytest.importorskip("submitit")

PROTOCOL = small.protocol()


def plan_of(*names: str, **options: bool) -> Plan:
    heads = [small.head(name) for name in names]
    return Plan(heads, [0], rounds=1, train_rounds=1, examples=1, **options)


class Told:
    """An execution, and what its user is told."""

    def __init__(self, out: Path) -> None:
        self._file = io.StringIO()
        console = Console(file=self._file, width=400)
        self.execution = replace(small.execution(out), reporter=Reporter(console))

    @property
    def text(self) -> str:
        return self._file.getvalue()


def cell(out: Path, head: str = "fcn") -> Path:
    return out / "tiny" / head / "seed-0"


def without_times(run: RunRecord) -> dict[str, object]:
    own = ("started", "finished", "legs", "train_seconds", "train_wait_seconds", "watch_seconds")
    content: dict[str, object] = run.model_dump(
        exclude={**dict.fromkeys(own, True), "views": {"__all__": {"evaluate_seconds"}}}
    )
    return content


def losses(folder: Path) -> list[dict[str, float]]:
    return [
        {key: value for key, value in entry.items() if "seconds" not in key}
        for entry in read_history(folder / "history.jsonl")
    ]


def assert_same_result(one: Path, other: Path) -> None:
    """Two cells were trained and evaluated alike, to the bit."""
    assert losses(one) == losses(other) != []
    first, second = read_areas(one / "areas.npz"), read_areas(other / "areas.npz")
    assert first.names == second.names
    for counts in ("intersection", "predicted", "labelled"):
        assert (getattr(first, counts) == getattr(second, counts)).all()
    weights, same = (load_file(each / "checkpoint.safetensors") for each in (one, other))
    assert weights.keys() == same.keys()
    assert all(torch.equal(weights[name], same[name]) for name in weights)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two cells of this file, run in this process."""
    out = tmp_path_factory.mktemp("alone")
    setting = open_setting(PROTOCOL, None)
    heads = [small.head("fcn"), small.head("ppm")]
    run_grid(setting, heads, [0], Precision(), small.execution(out))
    return out


# Jobs that are processes.


class Processes(LocalLauncher):
    """Jobs that are processes, and that end before the test does."""

    def __init__(self, out: Path, **resources: int) -> None:
        super().__init__(jobs_folder(out, PROTOCOL), Resources(**resources))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while any(job.state == "RUNNING" for job in self._jobs.values()):
            time.sleep(0.05)


class CellsOnly(Processes):
    """What follows the cells is refused, which spares its time."""

    def submit(self, tasks: Sequence[Task], name: str) -> list[str]:
        if not is_cell(tasks[0]):
            raise LaunchError("cells only")
        return super().submit(tasks, name)


@pytest.fixture(scope="module")
def by_jobs(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Two cells, run by jobs that are processes."""
    told = Told(tmp_path_factory.mktemp("jobs"))
    with CellsOnly(told.execution.out) as jobs, pytest.raises(LaunchError, match="cells only"):
        compare_on(jobs, PROTOCOL, plan_of("fcn", "ppm"), told.execution, device="cpu")
    return told


@pytest.mark.slow
def test_jobs_leave_what_one_process_leaves(by_jobs: Told, alone: Path) -> None:
    for head in ("fcn", "ppm"):
        folder = cell(by_jobs.execution.out, head)
        here, there = (read_run(each / "record.json") for each in (cell(alone, head), folder))
        assert without_times(there) == without_times(here)
        assert_same_result(folder, cell(alone, head))


@pytest.mark.slow
def test_the_summary_counts_cells_until_all_are_done(by_jobs: Told) -> None:
    assert re.search(r"submitted 2 cells: local jobs \d+, \d+", by_jobs.text)
    assert by_jobs.text.endswith("cells: 0 pending, 0 running, 2 done, 0 failed\n")


@pytest.mark.slow
def test_the_last_job_makes_tables_figures_costs_and_examples(tmp_path: Path) -> None:
    told = Told(tmp_path)
    with Processes(tmp_path) as jobs:
        made = compare_on(jobs, PROTOCOL, plan_of("fcn", "ppm"), told.execution, device="cpu")
    assert made.profile is not None
    assert made.profile.heads.keys() == {"fcn", "ppm"}
    for name in ("table.csv", "table.md", "figures", "profile.json", "examples/index.json"):
        assert (tmp_path / "tiny" / name).exists(), told.text
    assert re.search(r"costs, examples, tables and figures: local job \d+\n$", told.text)
    written = (tmp_path / "tiny" / "table.csv").stat()
    again = compare_on(
        Processes(tmp_path), PROTOCOL, plan_of("fcn", "ppm"), told.execution, device="cpu"
    )
    assert (again.runs, again.profile) == (made.runs, made.profile)
    assert told.text.count("submitted") == 1
    assert (tmp_path / "tiny" / "table.csv").stat() == written


# A cluster whose jobs do what a test says.

Behave = Callable[[str, Task], JobState]


class Cluster:
    """Jobs that advance, in this process, whenever their state is asked for."""

    name = "slurm"
    poll_seconds = 0.01
    processes = 1

    def __init__(self, out: Path, behave: Behave) -> None:
        self.folder = jobs_folder(out, PROTOCOL)
        self.behave = behave
        self.tasks: dict[str, Task] = {}

    def submit(self, tasks: Sequence[Task], name: str) -> list[str]:  # noqa: ARG002
        names = [f"{len(self.tasks) + 1}_{number}" for number in range(len(tasks))]
        self.tasks |= zip(names, tasks, strict=True)
        return names

    def states(self, jobs: Collection[str]) -> dict[str, JobState]:
        return {job: self.behave(job, self.tasks[job]) for job in jobs}

    def log(self, job: str) -> Path:
        return self.folder / f"{job}_0_log.err"

    def cancelling(self, jobs: Collection[str]) -> str:
        return f"scancel {' '.join(jobs)}"

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Job and head of the cells that were submitted."""
        return [(job, task.head.name) for job, task in self.tasks.items() if is_cell(task)]


def is_cell(task: Task) -> bool:
    return isinstance(task, CellJob)


COMPLETED = JobState("ended", "COMPLETED")
FAILED = JobState("ended", "FAILED")


def well(_job: str, task: Task) -> JobState:
    """Cells run to their end; what follows them fails, which spares its time."""
    if isinstance(task, CellJob):
        task()
        return COMPLETED
    return FAILED


def noticed_at_once(task: Task) -> None:
    """Run a cell whose job is told to leave before its first step."""
    stop = StopRequest()
    stop.requested = True
    assert isinstance(task, CellJob)
    with pytest.raises(Interrupted):
        task._run(stop)


def except_fcn(state: JobState, log: str = "") -> Behave:
    """The job of fcn comes to this, without a record; others do well."""

    def behave(job: str, task: Task) -> JobState:
        if not isinstance(task, CellJob) or task.head.name != "fcn":
            return well(job, task)
        path = jobs_folder(task.shared.out, PROTOCOL) / f"{job}_0_log.err"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(log)
        return state

    return behave


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """For comparisons whose figures nobody looks at.

    They take seconds each; `test_where_costs_fail_tables_are_written_all_the_same` has them drawn.
    """
    monkeypatch.setattr(job_conclusion, "write_report", lambda *_: [])
    return Told(tmp_path)


def compared(told: Told, jobs: Cluster, plan: Plan) -> dict[str, RunRecord]:
    collection = compare_on(jobs, PROTOCOL, plan, told.execution, device="cpu")
    return {run.head_name: run for run in collection.runs}


LOG = """Traceback (most recent call last):
  File "x.py", line 1, in f
contextbench.system.files.OutputError: cannot write x: No space left on device
srun: error: node7: task 0: Exited with exit code 1
"""


def test_asked_again_nothing_is_submitted(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    concluded: list[Sequence[RunRecord]] = []
    # In place of seconds of timing: `test_the_last_job_makes_tables_...` has it done.
    monkeypatch.setattr(
        jobs, "conclude", lambda _setting, _plan, runs, *_: concluded.append(list(runs))
    )

    def all_well(_job: str, task: Task) -> JobState:
        task()
        return COMPLETED

    slurm = Cluster(told.execution.out, all_well)
    first = compared(told, slurm, plan_of("fcn", "ppm"))
    assert list(slurm.tasks) == ["1_0", "1_1", "3_0"]  # the cells, then what follows them
    assert compared(told, slurm, plan_of("fcn", "ppm")) == first
    assert len(slurm.tasks) == 3
    assert concluded[0] == list(first.values())
    assert compared(told, slurm, plan_of("fcn")) != first
    assert list(slurm.tasks)[3:] == ["4_0"]  # costs and tables of another comparison


@pytest.mark.parametrize(
    ("state", "log", "status", "cause"),
    [
        (
            "FAILED",
            LOG,
            "interrupted",
            "FAILED: OutputError: cannot write x: No space left on devic",
        ),
        ("NODE_FAIL", "", "interrupted", "NODE_FAIL; see"),
        ("TIMEOUT", "train fcn: 3/4\n", "interrupted", "TIMEOUT; see"),
        ("", "", "interrupted", "without a record; see"),  # forgotten, and no accounting
        ("OUT_OF_MEMORY", "", "out_of_memory", "OUT_OF_MEMORY; see"),
    ],
)
def test_a_job_that_left_no_record_gets_one(
    told: Told, state: str, log: str, status: str, cause: str
) -> None:
    out = told.execution.out
    jobs = Cluster(out, except_fcn(JobState("ended", state), log))
    runs = compared(told, jobs, plan_of("fcn", "ppm"))
    assert runs["fcn"] == read_run(cell(out) / "record.json")
    assert runs["fcn"].status == status
    assert runs["fcn"].failure is not None
    message = runs["fcn"].failure.message
    assert message.startswith(f"slurm job 1_0 ended {cause}")
    assert message.endswith("see tiny/.jobs/1_0_0_log.err")
    assert message in told.text
    assert runs["ppm"].status == "done"  # others go on


def test_a_full_disk_on_one_node_is_told_and_other_cells_go_on(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def behave(job: str, task: Task) -> JobState:
        if not isinstance(task, CellJob) or task.head.name != "fcn":
            return well(job, task)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(files.os, "fsync", full)
                task()
        except Exception:
            jobs.log(job).parent.mkdir(parents=True, exist_ok=True)
            jobs.log(job).write_text(traceback.format_exc())
        return FAILED

    jobs = Cluster(told.execution.out, behave)
    runs = compared(told, jobs, plan_of("fcn", "ppm"))
    assert runs["fcn"].status == "interrupted"
    assert runs["fcn"].failure is not None
    assert re.search(
        r"job 1_0 ended FAILED: OutputError: cannot write \S+: No space left on device; see",
        runs["fcn"].failure.message,
    )
    assert runs["ppm"].status == "done"
    assert not list(cell(told.execution.out).glob(".*.*"))  # half-written


def test_a_lost_cell_is_submitted_again_and_goes_on(told: Told, alone: Path) -> None:
    def behave(job: str, task: Task) -> JobState:
        if job == "1_0":
            noticed_at_once(task)
            return JobState("ended", "CANCELLED")
        return well(job, task)

    out = told.execution.out
    jobs = Cluster(out, behave)
    runs = compared(told, jobs, plan_of("fcn"))
    assert runs["fcn"].status == "interrupted"
    assert runs["fcn"].environment["device"]  # of the record that the job left
    assert (cell(out) / "resume.pt").exists()
    assert "interrupted cells: 1; the same command goes on with them" in told.text
    assert [name for name, _ in jobs.cells] == [*jobs.tasks] == ["1_0"]  # no costs yet
    runs = compared(told, jobs, plan_of("fcn"))
    assert runs["fcn"].status == "done"
    assert_same_result(cell(out), cell(alone))


def test_a_cell_back_in_the_queue_is_pending_and_then_goes_on(told: Told, alone: Path) -> None:
    visits: list[str] = []

    def behave(job: str, task: Task) -> JobState:
        if is_cell(task):
            visits.append(job)
            if len(visits) == 1:
                noticed_at_once(task)
            if len(visits) < 3:
                return JobState("pending", "BeginTime")
        return well(job, task)

    out = told.execution.out
    jobs = Cluster(out, behave)
    assert compared(told, jobs, plan_of("fcn"))["fcn"].status == "done"
    assert [job for job, _ in jobs.cells] == ["1_0"]  # submitted once
    counts = re.findall(r"^cells: (.*)$", told.text, re.MULTILINE)
    assert counts == [
        "1 pending, 0 running, 0 done, 0 failed",
        "0 pending, 0 running, 1 done, 0 failed",
    ]
    assert_same_result(cell(out), cell(alone))


def test_a_record_may_arrive_after_the_end_of_its_job(told: Told, alone: Path) -> None:
    visits: list[str] = []

    def behave(job: str, task: Task) -> JobState:
        visits.append(job)
        if is_cell(task) and len(visits) == 2:  # ended already when it was looked at first
            source, target = cell(alone) / "record.json", cell(told.execution.out)
            target.mkdir(parents=True, exist_ok=True)
            (target / "record.json").write_bytes(source.read_bytes())
        return FAILED

    jobs = Cluster(told.execution.out, behave)
    assert compared(told, jobs, plan_of("fcn"))["fcn"].status == "done"


def test_jobs_of_an_earlier_call_are_waited_for(told: Told) -> None:
    def leave(_job: str, _task: Task) -> JobState:
        told.execution.stop.requested = True
        return JobState("running")

    jobs = Cluster(told.execution.out, leave)
    with pytest.raises(Interrupted):
        compared(told, jobs, plan_of("fcn", "ppm"))
    assert "jobs that go on: 2. The same command" in told.text
    assert "scancel 1_0 1_1 ends them" in told.text
    told.execution.stop.requested = False
    jobs.behave = well
    runs = compared(told, jobs, plan_of("fcn", "ppm"))
    assert {run.status for run in runs.values()} == {"done"}
    assert [job for job, _ in jobs.cells] == ["1_0", "1_1"]


def test_the_last_job_of_an_earlier_call_is_waited_for(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "conclude", lambda *_: None)

    def behave(_job: str, task: Task) -> JobState:
        if not is_cell(task) and not told.execution.stop.requested:
            told.execution.stop.requested = True
            return JobState("running")
        task()
        return COMPLETED

    slurm = Cluster(told.execution.out, behave)
    with pytest.raises(Interrupted):
        compared(told, slurm, plan_of("fcn"))
    assert "scancel 2_0 ends them" in told.text
    told.execution.stop.requested = False
    slurm.behave = lambda _job, task: (task(), COMPLETED)[1]
    compared(told, slurm, plan_of("fcn"))
    assert list(slurm.tasks) == ["1_0", "2_0"]


def test_no_news_of_a_job_is_no_end_of_it(told: Told) -> None:
    answers = iter([False, False, True])

    class Silent(Cluster):
        def states(self, jobs: Collection[str]) -> dict[str, JobState]:
            return super().states(jobs) if next(answers, True) else {}

    jobs = Silent(told.execution.out, well)
    assert compared(told, jobs, plan_of("fcn"))["fcn"].status == "done"


def left_running(told: Told) -> Cluster:
    """A cluster with a running job for fcn, which an earlier call submitted."""

    def leave(_job: str, _task: Task) -> JobState:
        told.execution.stop.requested = True
        return JobState("running")

    jobs = Cluster(told.execution.out, leave)
    with pytest.raises(Interrupted):
        compared(told, jobs, plan_of("fcn"))
    told.execution.stop.requested = False
    return jobs


def test_without_news_of_earlier_jobs_nothing_is_submitted(told: Told) -> None:
    jobs = left_running(told)
    jobs.states = lambda jobs: {}  # type: ignore[method-assign]  # noqa: ARG005
    with pytest.raises(LaunchError, match="fcn, seed 0 has job 1_0, whose state cannot be learnt"):
        compared(told, jobs, plan_of("fcn"))


def test_fresh_is_refused_while_a_job_has_the_cell(told: Told) -> None:
    jobs = left_running(told)
    with pytest.raises(ConfigError, match=r"job 1_0 already, which is running.*scancel 1_0"):
        compared(told, jobs, plan_of("fcn", fresh=True))
    assert len(jobs.tasks) == 1


def test_fresh_runs_again(told: Told, alone: Path) -> None:
    out = told.execution.out
    jobs = Cluster(out, well)
    first = compared(told, jobs, plan_of("fcn"))["fcn"]
    again = compared(told, jobs, plan_of("fcn", fresh=True))["fcn"]
    assert [head for _, head in jobs.cells] == ["fcn", "fcn"]
    assert again.started >= first.finished
    assert_same_result(cell(out), cell(alone))


def test_what_slurm_refuses_costs_no_record(told: Told) -> None:
    jobs = Cluster(told.execution.out, well)
    first = compared(told, jobs, plan_of("fcn"))["fcn"]

    def refuse(_tasks: Sequence[Task], _name: str) -> list[str]:
        raise LaunchError("the jobs were not submitted: invalid partition")

    jobs.submit = refuse  # type: ignore[method-assign]
    with pytest.raises(LaunchError, match="invalid partition"):
        compared(told, jobs, plan_of("fcn", fresh=True))
    assert read_run(cell(told.execution.out) / "record.json") == first


def test_failed_cells_are_kept_unless_asked_for(told: Told) -> None:
    memory = except_fcn(JobState("ended", "OUT_OF_MEMORY"))
    jobs = Cluster(told.execution.out, memory)
    compared(told, jobs, plan_of("fcn"))
    jobs.behave = well
    assert compared(told, jobs, plan_of("fcn"))["fcn"].status == "out_of_memory"
    assert compared(told, jobs, plan_of("fcn", retry_failed=True))["fcn"].status == "done"
    assert [head for _, head in jobs.cells] == ["fcn", "fcn"]


def test_a_cell_that_another_process_runs_is_waited_for(told: Told) -> None:
    setting = open_setting(PROTOCOL, None)
    other = Cell(setting, small.head("fcn"), 0, Precision())
    held = cell_lock(other, told.execution)
    held.__enter__()

    def behave(job: str, task: Task) -> JobState:
        if is_cell(task) and not (cell(told.execution.out) / "record.json").exists():
            runner.run_cell(other, small.execution(told.execution.out))
            held.__exit__(None, None, None)
        return well(job, task)

    jobs = Cluster(told.execution.out, behave)
    runs = compared(told, jobs, plan_of("fcn", "ppm"))
    assert {run.status for run in runs.values()} == {"done"}
    assert [head for _, head in jobs.cells] == ["ppm"]


def test_where_costs_fail_tables_are_written_all_the_same(tmp_path: Path) -> None:
    told = Told(tmp_path)
    collection = compare_on(
        Cluster(tmp_path, well), PROTOCOL, plan_of("fcn"), told.execution, device="cpu"
    )
    assert collection.profile is None
    assert "no costs were measured: slurm job 2_0 ended FAILED; see" in told.text
    rows = (tmp_path / "tiny" / "table.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["head", "fcn"]
    assert list((tmp_path / "tiny" / "figures").glob("per-class.*"))


# Inside a job.


def shared(out: Path, **changes: object) -> Shared:
    setting = open_setting(PROTOCOL, None)
    content = Shared(
        protocol=PROTOCOL,
        heads=(small.head("fcn"),),
        fingerprint=setting.fingerprint,
        out=out,
        data_root=None,
        device="cpu",
        workers=0,
    )
    return replace(content, **changes)  # type: ignore[arg-type]


def test_a_job_refuses_data_of_another_fingerprint(tmp_path: Path) -> None:
    job = CellJob(shared(tmp_path, fingerprint="abc"), small.head("fcn"), 0)
    with pytest.raises(DataError, match=r"on this node are not those .* expected abc"):
        job()
    assert not cell(tmp_path).exists()


def test_a_job_whose_cell_is_done_already_leaves_it(tmp_path: Path) -> None:
    job = CellJob(shared(tmp_path), small.head("fcn"), 0)
    assert job() == "done"
    before = (cell(tmp_path) / "record.json").read_bytes()
    assert job() == "done"
    assert (cell(tmp_path) / "record.json").read_bytes() == before


def test_jobs_share_one_number_format_on_whatever_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[Precision] = []

    def choose(*_: object) -> Precision:
        timed.append(Precision("bfloat16", "channels_last"))
        return timed[-1]

    monkeypatch.setattr(jobs, "shared_precision", choose)
    automatic = shared(tmp_path, protocol=PROTOCOL.model_copy(update={"precision": "auto"}))
    setting, execution = automatic.open, small.execution(tmp_path)
    chosen = [automatic.precision(setting, execution) for _ in range(2)]  # type: ignore[arg-type]
    assert chosen == timed * 2
    path = jobs_folder(tmp_path, PROTOCOL) / "precision.json"
    path.write_text("{")
    automatic.precision(setting, execution)  # type: ignore[arg-type]
    assert len(timed) == 2
    assert path.with_name("precision.json.corrupt-1").exists()


@pytest.fixture
def caught() -> Iterator[list[int]]:
    """Signals that reach whoever was there before the job, as submitit is."""
    numbers: list[int] = []
    watched = (signal.SIGTERM, signal.SIGUSR2)
    before = [signal.signal(number, lambda n, _: numbers.append(n)) for number in watched]
    yield numbers
    for number, handler in zip(watched, before, strict=True):
        signal.signal(number, handler)


def leaving(*numbers: int) -> Callable[[StopRequest], None]:
    def work(stop: StopRequest) -> None:
        for number in numbers:
            signal.raise_signal(number)
        stop.check()

    return work


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_takes_effect_when_all_is_saved(caught: list[int], number: int) -> None:
    with pytest.raises(SystemExit) as left:
        jobs._leaving_on_notice(leaving(number, number))
    assert caught == [number]  # once, though it came twice
    assert left.value.code == 128 + number


@pytest.mark.parametrize(
    ("answer", "effect"),
    [
        ("echo RUNNING", signal.SIGUSR2),  # notice of a preemption: back into the queue
        ("echo COMPLETING", signal.SIGTERM),  # cancelled, or requeued by Slurm already
        ("exit 1", signal.SIGTERM),
    ],
)
def test_an_announced_preemption_is_answered_by_going_back_into_the_queue(
    caught: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, effect: int
) -> None:
    commands(monkeypatch, tmp_path, squeue=answer)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(SystemExit):
        jobs._leaving_on_notice(leaving(signal.SIGTERM))
    assert caught == [effect]


def test_what_is_finished_before_the_end_is_returned(caught: list[int]) -> None:
    assert jobs._leaving_on_notice(lambda _: (signal.raise_signal(signal.SIGTERM), 3)[1]) == 3
    assert caught == []


def test_both_kinds_of_jobs_may_be_called_again(tmp_path: Path) -> None:
    shares = shared(tmp_path)
    for job in (CellJob(shares, small.head("fcn"), 0), Conclusion(shares, plan_of("fcn"), "d")):
        assert job.checkpoint().function == job


# Slurm's commands, as scripts.


def commands(monkeypatch: pytest.MonkeyPatch, folder: Path, **scripts: str) -> None:
    """Commands that come before those of this machine."""
    for name, script in scripts.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


@pytest.fixture
def some_tasks(tmp_path: Path) -> list[Task]:
    return [CellJob(shared(tmp_path), small.head(name), 0) for name in ("fcn", "ppm")]


def test_options_reach_sbatch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, some_tasks: list[Task]
) -> None:
    commands(monkeypatch, tmp_path, srun="", sbatch="echo Submitted batch job 12")
    wanted = Resources(
        minutes=90,
        partition="long",
        gpus=2,
        cpus=4,
        memory_gb=32.0,
        array_width=1,
        sbatch={"account": "vision", "exclusive": True},
    )
    folder = tmp_path / "jobs"
    jobs = SlurmLauncher(folder, wanted)
    assert jobs.submit(some_tasks, "contextbench tiny") == ["12_0", "12_1"]
    script = folder / "12_submission.sh"
    lines = script.read_text().splitlines()
    expected = {
        "partition=long",
        "time=90",
        "gpus-per-node=2",
        "ntasks-per-node=2",
        "cpus-per-task=4",
        "mem=32GB",
        "array=0-1%1",
        "account=vision",
        "exclusive",
        "requeue",
        "signal=USR2@120",
        "open-mode=append",
        "job-name='contextbench tiny'",
    }
    assert {f"#SBATCH --{option}" for option in expected} <= set(lines)
    assert any(line.startswith("srun") and "--cpus-per-task=4" in line for line in lines)
    assert jobs.log("12_1") == folder / "12_1_0_log.err"
    assert jobs.cancelling(["12_0", "12_1"]) == "scancel 12"
    assert jobs.cancelling(["12_1"]) == "scancel 12_1"


def test_short_jobs_are_told_of_their_end_in_a_quarter_of_their_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, some_tasks: list[Task]
) -> None:
    commands(monkeypatch, tmp_path, srun="", sbatch="echo Submitted batch job 12")
    SlurmLauncher(tmp_path / "jobs", Resources(minutes=2)).submit(some_tasks, "x")
    script = tmp_path / "jobs" / "12_submission.sh"
    assert "#SBATCH --signal=USR2@30" in script.read_text()


def test_what_sbatch_says_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, some_tasks: list[Task]
) -> None:
    refusal = "echo sbatch: error: invalid partition specified: typo >&2; exit 1"
    commands(monkeypatch, tmp_path, srun="", sbatch=refusal)
    with pytest.raises(LaunchError, match=r"not submitted: .*invalid partition specified: typo"):
        SlurmLauncher(tmp_path / "jobs", Resources(partition="typo")).submit(some_tasks, "x")


def test_without_slurm_the_user_is_sent_to_a_login_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, some_tasks: list[Task]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="no srun here; run this on a login node"):
        SlurmLauncher(tmp_path / "jobs", Resources()).submit(some_tasks, "x")
    assert SlurmLauncher(tmp_path, Resources()).states(["1"]) == {}


def test_states_come_from_squeue_and_for_forgotten_jobs_from_sacct(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands(
        monkeypatch,
        tmp_path,
        squeue="echo '12_0|RUNNING|None'; echo '12_1|PENDING|Resources'",
        sacct="echo 'CANCELLED by 7'",
    )
    jobs = SlurmLauncher(tmp_path, Resources())
    assert jobs.states(["12_0", "12_1", "11"]) == {
        "12_0": JobState("running"),
        "12_1": JobState("pending", "Resources"),
        "11": JobState("ended", "CANCELLED by 7"),
    }
    commands(monkeypatch, tmp_path, squeue="exit 1")
    assert jobs.states(["12_0"]) == {}


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("1|PENDING|None", JobState("pending")),
        ("1|REQUEUE_HOLD|launch failed | held", JobState("pending", "launch failed | held")),
        ("1|COMPLETING|None", JobState("running")),  # a job that was requeued too
        ("1|SUSPENDED|None", JobState("running")),
        ("1|PREEMPTED|None", JobState("ended", "PREEMPTED")),
        ("1|TIMEOUT|TimeLimit", JobState("ended", "TIMEOUT")),
    ],
)
def test_words_of_slurm(line: str, state: JobState) -> None:
    assert parse_queue(f"{line}\n") == {"1": state}


# Options.


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12:00:00", 720), ("0:00:01", 1), ("2-01:30:00", 2 * 24 * 60 + 90), ("100:00:00", 6000)],
)
def test_time_limits(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "12", "12:00", "0:00:00", "1:60:00", "-1:00:00", "1-2"])
def test_wrong_time_limits(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--time .*write HH:MM:SS"):
        minutes(text)


def test_memory_is_in_units_of_1024() -> None:
    assert [gigabytes(text) for text in ("32G", "512M", "1t", "8GB")] == [32, 0.5, 1024, 8]


@pytest.mark.parametrize("text", ["", "32", "0G", "1.5G", "32 G", "G"])
def test_wrong_memory(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--memory .*like 32G"):
        gigabytes(text)


def test_other_options_of_sbatch() -> None:
    given = ["account=vision", "--constraint=a100|h100", "exclusive", "comment=a=b"]
    assert sbatch_options(given) == {
        "account": "vision",
        "constraint": "a100|h100",
        "exclusive": True,
        "comment": "a=b",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("account=", "write NAME=VALUE"),
        ("=x", "write NAME=VALUE"),
        ("a b", "write NAME=VALUE"),
        ("partition=x", "use --partition"),
        ("output=x", "contextbench sets it"),
    ],
)
def test_wrong_options_of_sbatch(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sbatch_options([text])


def test_unknown_launchers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'cloud' is unknown; allowed: slurm, local"):
        launcher("cloud", tmp_path, Resources())


def test_without_submitit_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)  # as if it were not installed
    with pytest.raises(LaunchError, match=r"pip install 'contextbench\[slurm\]'"):
        launcher("slurm", tmp_path, Resources())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "1"], "--gpus is for jobs"),
        (["--time", "1:00:00"], "--time is for jobs"),
        (["--launcher", "local", "--partition", "x"], "--partition is for jobs of Slurm"),
        (["--launcher", "local", "--array-width", "2"], "--array-width is for jobs of Slurm"),
        (["--launcher", "cloud"], "'cloud' is unknown"),
        (["--launcher", "local", "--gpus", "3"], "--gpus 3: train.batch 8 cannot be divided"),
        (["--launcher", "slurm", "--time", "3"], "--time '3'"),
        (["--launcher", "slurm", "--memory", "lots"], "--memory 'lots'"),
        (["--launcher", "slurm", "--sbatch", "array=3"], "contextbench sets it"),
    ],
)
def test_wrong_options_are_a_users_mistake(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    command = ["compare", "--device", "cpu", "--out", str(tmp_path), *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


# What is kept, read and shown.


def test_jobs_of_another_launcher_are_not_asked_for(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "slurm")
    ledger.add("fcn/seed-0", "7")
    entry = ledger.find("fcn/seed-0")
    assert entry is not None
    assert (entry.launcher, entry.job) == ("slurm", "7")
    assert Ledger(tmp_path, "local").find("fcn/seed-0") is None
    ledger.remove("fcn/seed-0")
    assert ledger.find("fcn/seed-0") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"job": 3}'])
def test_a_ledger_that_cannot_be_read_is_set_aside(tmp_path: Path, content: str) -> None:
    (tmp_path / "fcn.json").write_text(content)
    assert Ledger(tmp_path, "slurm").find("fcn") is None
    assert (tmp_path / "fcn.json.corrupt-1").read_text() == content


def test_the_last_error_and_the_last_line_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert (last_error(path), last_line(path)) == ("", "")
    path.write_text("ValueError: first\n" + LOG + "\n \n")
    assert last_error(path) == "OutputError: cannot write x: No space left on device"
    assert last_line(path) == "srun: error: node7: task 0: Exited with exit code 1"
    path.write_text("the ValueError: is in the middle\n")
    assert last_error(path) == ""


ROWS = [
    Row("fcn", 0, "1_0", "done"),
    Row("ocr", 0, "1_1", "running", "train [ocr]: 3/4"),
    Row("ppm", 0, "", "failed", "OutOfMemoryError: [red]"),
]


def test_the_summary_names_interrupted_cells_where_there_are_any() -> None:
    assert summary(ROWS) == "0 pending, 1 running, 1 done, 1 failed"
    rows = [*ROWS, Row("aspp", 0, "1_2", "interrupted")]
    assert summary(rows) == "0 pending, 1 running, 1 done, 1 failed, 1 interrupted"


def test_the_table_shows_text_as_it_is() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(table(ROWS))
    assert isinstance(console.file, io.StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["ocr", "0", "1_1", "running", "train", "[ocr]:", "3/4"] in lines
    assert ["ppm", "0", "failed", "OutOfMemoryError:", "[red]"] in lines


# Processes that are signalled and killed.


class Signalling(CellsOnly):
    """Processes of which the first to train gets a signal, once, as Slurm would send it."""

    def __init__(self, out: Path, number: int, *, after: float = 0.0, **resources: int) -> None:
        super().__init__(out, **resources)
        self.cell = cell(out)
        self.after = after  # seconds since the cell began
        self.number: int | None = number
        self.left: RunRecord | None = None  # by the first process

    def states(self, jobs: Collection[str]) -> dict[str, JobState]:
        if self.number is not None and (self.cell / "config.yaml").exists():
            time.sleep(self.after)
            [job] = jobs
            [child] = Path(f"/proc/{job}/task/{job}/children").read_text().split()
            os.kill(int(child), self.number)
            self.number = None
        if self.left is None and (self.cell / "record.json").exists():
            self.left = read_run(self.cell / "record.json")
        return super().states(jobs)


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for children there")


@linux
@pytest.mark.slow
def test_a_process_that_is_killed_is_recorded_with_its_log(told: Told) -> None:
    out, protocol = told.execution.out, small.protocol(steps=5000)
    with Signalling(out, signal.SIGKILL) as jobs:
        [run] = compare_on(jobs, protocol, plan_of("fcn"), told.execution, device="cpu").runs
    assert run.status == "interrupted"
    assert run.failure is not None
    match = re.fullmatch(r"local job (\d+) ended without a record; see (\S+)", run.failure.message)
    assert match is not None
    assert match[2] == f"tiny/.jobs/{match[1]}_0_log.err"
    assert (out / match[2]).exists()


@linux
@pytest.mark.slow
def test_a_job_that_is_preempted_goes_on_where_it_was(told: Told, tmp_path: Path) -> None:
    out, protocol = tmp_path / "jobs", small.protocol(steps=300)
    execution = replace(told.execution, out=out)
    with (
        Signalling(out, signal.SIGUSR2, after=2.0) as preempted,
        pytest.raises(LaunchError, match="cells only"),
    ):
        compare_on(preempted, protocol, plan_of("fcn"), execution, device="cpu")
    assert read_run(cell(out) / "record.json").status == "done"
    assert preempted.left is not None
    assert preempted.left.status == "interrupted"
    assert 0 < preempted.left.steps < 300
    logs = "".join(path.read_text() for path in (out / "tiny" / ".jobs").glob("*_log.*"))
    assert "this job is preempted" in logs
    alone = tmp_path / "alone"
    setting = open_setting(protocol, None)
    run_grid(setting, [small.head()], [0], Precision(), small.execution(alone))
    assert_same_result(cell(out), cell(alone))


@linux
@pytest.mark.slow
def test_processes_of_one_job_train_together(tmp_path: Path, told: Told) -> None:
    with CellsOnly(tmp_path, gpus=2) as jobs, pytest.raises(LaunchError, match="cells only"):
        compare_on(jobs, PROTOCOL, plan_of("fcn"), told.execution, device="cpu")
    record = read_run(cell(tmp_path) / "record.json")
    assert (record.status, record.environment["processes"]) == ("done", 2)
    assert record.totals is not None
    assert sum(record.totals.labelled) == 3 * 64 * 64  # every image once


@linux
@pytest.mark.slow
def test_a_job_that_is_out_of_time_too_often_says_so(told: Told) -> None:
    """submitit takes any signal within ten minutes of the end for that of the end."""
    out, protocol = told.execution.out, small.protocol(steps=100_000)
    with Signalling(out, signal.SIGUSR2, after=2.0, minutes=10, restarts=0) as jobs:
        [run] = compare_on(jobs, protocol, plan_of("fcn"), told.execution, device="cpu").runs
    assert run.status == "interrupted"
    assert run.failure is not None
    assert "timed-out too many times" in run.failure.message
    assert run.steps > 0
    assert (cell(out) / "resume.pt").exists()
