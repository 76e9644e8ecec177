"""Where cells run as jobs: a Slurm cluster or, to try out the same, processes of this machine.

Jobs are handed over by submitit, which pickles what a job is to call and unpickles it in the job.
States are read from Slurm itself: from `squeue`, which every cluster answers, and for jobs that it
has forgotten from `sacct`, where there is accounting.
"""

import os
import re
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from contextbench.config.files import ConfigError
from contextbench.system.errors import UserError

if TYPE_CHECKING:
    import submitit

PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {
    *("CONFIGURING", "RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING"),
    *("SUSPENDED", "STOPPED", "RESIZING"),
}
OWN_OPTIONS = {
    "partition": "--partition",
    "time": "--time",
    "mem": "--memory",
    "cpus-per-task": "--cpus",
    "gpus-per-node": "--gpus",
    **dict.fromkeys(("array", "error", "job-name", "nodes", "ntasks", "ntasks-per-node"), ""),
    **dict.fromkeys(("open-mode", "output", "requeue", "no-requeue", "signal"), ""),
}
"""Options of sbatch that are not the user's, and what to use instead."""

LONGEST_NOTICE_SECONDS = 120  # between the signal that a job's time is over, and its end

Task = Callable[[], object]
"""What a job calls: picklable, and with a method `checkpoint` where it may be called again."""


class LaunchError(UserError, RuntimeError):
    """Jobs cannot be submitted. The message says what is missing, or what Slurm answered."""


@dataclass(frozen=True)
class Resources:
    """What one job asks for, and how many of them may run at a time."""

    minutes: int = 24 * 60
    partition: str | None = None
    gpus: int = 0  # with a process each, which train together
    cpus: int | None = None  # of each process
    memory_gb: float | None = None
    array_width: int = 256
    restarts: int = 3  # times that a job which ran out of time goes back into the queue
    sbatch: Mapping[str, str | bool] = field(default_factory=dict)  # others, without dashes

    @property
    def processes(self) -> int:
        """Of one job."""
        return max(1, self.gpus)


@dataclass(frozen=True)
class JobState:
    """What is known of a job."""

    phase: Literal["pending", "running", "ended"]
    detail: str = ""  # in Slurm's words: why it waits, or how it ended


class Launcher(Protocol):
    """Takes jobs and knows their states."""

    name: str
    poll_seconds: float
    processes: int  # of one job

    def submit(self, tasks: Sequence[Task], name: str) -> list[str]:
        """Hand over one job a task, several as one array; their ids. Raises `LaunchError`."""
        ...

    def states(self, jobs: Collection[str]) -> dict[str, JobState]:
        """States by id; jobs of which nothing can be learnt now are left out."""
        ...

    def log(self, job: str) -> Path:
        """The file that a job's messages go to."""
        ...

    def cancelling(self, jobs: Collection[str]) -> str:
        """The command with which a user ends these jobs."""
        ...


class SlurmLauncher:
    """Jobs of a Slurm cluster, with files in `folder`, which all its nodes have to see."""

    name = "slurm"
    poll_seconds = 10.0

    def __init__(self, folder: Path, resources: Resources) -> None:
        self.processes = resources.processes
        self._folder = folder
        self._resources = resources

    def submit(self, tasks: Sequence[Task], name: str) -> list[str]:
        wanted = self._resources
        # Slurm 22.05 and later do not hand --cpus-per-task of a job on to its steps.
        steps = None if wanted.cpus is None else [f"--cpus-per-task={wanted.cpus}"]
        jobs = _submitted(
            _executor(self.name, self._folder, wanted, name),
            tasks,
            slurm_partition=wanted.partition,
            slurm_array_parallelism=wanted.array_width,
            slurm_signal_delay_s=min(LONGEST_NOTICE_SECONDS, 15 * wanted.minutes),
            slurm_srun_args=steps,
            slurm_additional_parameters={"requeue": True, **wanted.sbatch},
        )
        return [job.job_id for job in jobs]

    def states(self, jobs: Collection[str]) -> dict[str, JobState]:
        listed = _answer(
            ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%r"]
        )
        if listed is None:
            return {}
        known = parse_queue(listed)
        return {job: known.get(job) or JobState("ended", _accounted(job)) for job in jobs}

    def log(self, job: str) -> Path:
        return _log(self._folder, job)

    def cancelling(self, jobs: Collection[str]) -> str:
        arrays = dict.fromkeys(job.partition("_")[0] for job in jobs)
        return f"scancel {' '.join(arrays if len(jobs) > 1 else jobs)}"


class LocalLauncher:
    """All jobs at once, as processes of this machine: to try out, and to test, what jobs do."""

    name = "local"
    poll_seconds = 0.2

    def __init__(self, folder: Path, resources: Resources) -> None:
        self.processes = resources.processes
        self._folder = folder
        self._resources = resources
        self._jobs: dict[str, submitit.Job[object]] = {}  # of this process

    def submit(self, tasks: Sequence[Task], name: str) -> list[str]:
        executor = _executor(self.name, self._folder, self._resources, name)
        submitted = {job.job_id: job for job in _submitted(executor, tasks)}
        self._jobs |= submitted
        return list(submitted)

    def states(self, jobs: Collection[str]) -> dict[str, JobState]:
        return {job: self._state(job) for job in jobs}

    def log(self, job: str) -> Path:
        return _log(self._folder, job)

    def cancelling(self, jobs: Collection[str]) -> str:
        return f"kill {' '.join(jobs)}"

    def _state(self, job: str) -> JobState:
        own = self._jobs.get(job)
        running = _is_process(job) if own is None else own.get_info()["jobState"] == "RUNNING"
        return JobState("running") if running else JobState("ended")


def launcher(name: str, folder: Path, resources: Resources) -> Launcher:
    """The launcher of a name. Raises `ConfigError` and, without submitit, `LaunchError`."""
    kinds: dict[str, Callable[[Path, Resources], Launcher]] = {
        "slurm": SlurmLauncher,
        "local": LocalLauncher,
    }
    if name not in kinds:
        raise ConfigError(f"--launcher {name!r} is unknown; allowed: {', '.join(kinds)}")
    _submitit()
    return kinds[name](folder, resources)


def parse_queue(text: str) -> dict[str, JobState]:
    """States by job id from lines `id|state|reason` of squeue."""
    states = {}
    for line in text.splitlines():
        job, state, reason = line.strip().split("|", 2)
        if state in PENDING:
            states[job] = JobState("pending", "" if reason == "None" else reason)
        elif state in RUNNING:
            states[job] = JobState("running")
        else:
            states[job] = JobState("ended", state)
    return states


def runs_under_slurm() -> bool:
    """Whether this process is a job that Slurm has neither ended nor put back into the queue."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    state = _answer(["squeue", "--noheader", f"--jobs={job}", "--format=%T"])
    return state is not None and state.strip() == "RUNNING"


def minutes(text: str) -> int:
    """Minutes in `HH:MM:SS` or `D-HH:MM:SS`, rounded up. Raises `ConfigError`."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", text)
    total = 0
    if match is not None:
        days, hours, mins, seconds = (int(part or 0) for part in match.groups())
        total = (days * 24 + hours) * 60 + mins + (seconds > 0)
    if total == 0:
        raise ConfigError(f"--time {text!r}: write HH:MM:SS or D-HH:MM:SS, like 12:00:00")
    return total


def gigabytes(text: str) -> float:
    """Gigabytes in `32G` or `500M`, Slurm's units of 1024. Raises `ConfigError`."""
    match = re.fullmatch(r"(\d+)([MGT])B?", text, re.IGNORECASE)
    if match is None or int(match[1]) == 0:
        raise ConfigError(f"--memory {text!r}: write a number with M, G or T, like 32G")
    return int(match[1]) * {"M": 1 / 1024, "G": 1.0, "T": 1024.0}[match[2].upper()]


def sbatch_options(texts: Sequence[str]) -> dict[str, str | bool]:
    """`NAME=VALUE`, or `NAME` of a switch, as a mapping. Raises `ConfigError` for anything else."""
    options: dict[str, str | bool] = {}
    for text in texts:
        name, separator, value = text.lstrip("-").partition("=")
        if not re.fullmatch(r"[a-z][a-z-]*", name) or (separator and not value):
            raise ConfigError(f"--sbatch {text!r}: write NAME=VALUE or NAME, like account=vision")
        if name in OWN_OPTIONS:
            instead = OWN_OPTIONS[name]
            hint = f"use {instead}" if instead else "contextbench sets it"
            raise ConfigError(f"--sbatch {text!r} cannot be given: {hint}")
        options[name] = value if separator else True
    return options


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise LaunchError(
            "--launcher needs submitit, which is not installed: pip install 'contextbench[slurm]'"
        ) from None
    return submitit


def _executor(kind: str, folder: Path, wanted: Resources, name: str) -> Any:
    limit = {f"{kind}_max_num_timeout": wanted.restarts}
    try:
        executor = _submitit().AutoExecutor(folder, cluster=kind, **limit)
    except RuntimeError:
        raise LaunchError(
            "--launcher slurm: there is no srun here; run this on a login node of the cluster"
        ) from None
    executor.update_parameters(
        name=name,
        timeout_min=wanted.minutes,
        gpus_per_node=wanted.gpus or None,
        tasks_per_node=wanted.processes,
        cpus_per_task=wanted.cpus,
        mem_gb=wanted.memory_gb,
    )
    return executor


def _submitted(executor: Any, tasks: Sequence[Task], **parameters: Any) -> list[Any]:
    executor.update_parameters(**parameters)
    try:
        return list(executor.submit_array(tasks))
    except (RuntimeError, OSError) as error:  # submitit puts sbatch's words into a RuntimeError
        raise LaunchError(f"the jobs were not submitted: {error}") from error


def _answer(command: Sequence[str]) -> str | None:
    """What a command prints; None where it fails, as it does while Slurm does not answer."""
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _accounted(job: str) -> str:
    """How a job ended according to accounting; empty where there is none."""
    command = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=State"]
    return (_answer([*command, f"--jobs={job}"]) or "").partition("\n")[0].strip()


def _log(folder: Path, job: str) -> Path:
    return folder / f"{job}_0_log.err"


def _is_process(job: str) -> bool:
    """Whether a job of another, perhaps ended, process of this machine still runs."""
    try:
        os.kill(int(job), 0)
        command = Path(f"/proc/{job}/cmdline")
        return not command.exists() or b"submitit" in command.read_bytes()
    except (OSError, ValueError):
        return False
