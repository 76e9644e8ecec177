"""A comparison whose cells are jobs: submitted once, run wherever there is room, collected here."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from contextbench.cluster.conclusion import conclude_by_job
from contextbench.cluster.job import CellJob, Shared
from contextbench.cluster.ledger import Ledger, jobs_folder
from contextbench.cluster.scheduler import JobState, Launcher, LaunchError
from contextbench.cluster.watch import Campaign, Watched, states_of, wait_for
from contextbench.config.files import ConfigError
from contextbench.config.protocols import Protocol
from contextbench.models.precision import Precision
from contextbench.records.runs import existing_run
from contextbench.report.collection import Collection
from contextbench.runs.cells import (
    Cell,
    Setting,
    cell_lock,
    discard_state,
    lacking,
    lock,
    open_setting,
    refuse_others,
    stored_run,
)
from contextbench.runs.comparison import Plan, check_runnable, say_weights
from contextbench.system.locks import BusyError
from contextbench.training.execution import Execution
from contextbench.training.failures import spoils_training
from contextbench.training.processes import World, check_shareable


def compare_on(
    launcher: Launcher, protocol: Protocol, plan: Plan, execution: Execution, *, device: str
) -> Collection:
    """`comparison.compare` with a job for each missing cell, and one for what follows them.

    `device` is what jobs look for where they run; this process needs none. Jobs of an earlier call
    are waited for, not submitted again. Where the last job fails, the tables lack costs. Raises
    `LaunchError` where Slurm refuses, what `compare` raises, and `Interrupted` on request, which
    leaves the jobs alone.
    """
    _check_processes(protocol, launcher.processes)
    out, root = execution.out.resolve(), execution.data_root
    execution = replace(execution, out=out, data_root=root.resolve() if root else None)
    say_weights(protocol, execution)
    setting = open_setting(protocol, execution.data_root)
    check_runnable(setting, plan.heads, execution, here=False)
    campaign = _campaign(launcher, setting, plan, execution, device)
    cells = [
        # What the number format is has no say in which cells there are.
        Watched(Cell(setting, head, seed, Precision()))
        for seed in plan.seeds
        for head in plan.heads
    ]
    with lock(execution, protocol):
        _submit_missing(campaign, cells)
    wait_for(campaign, cells)
    found = [existing_run(each.cell.folder(out)) for each in cells]
    return conclude_by_job(campaign, [run for run in found if run is not None])


def _check_processes(protocol: Protocol, processes: int) -> None:
    """Raise `ConfigError` where the processes of a job cannot share its work."""
    try:
        check_shareable(protocol, World(size=processes))
    except ConfigError as error:
        raise ConfigError(f"--gpus {processes}: {error}") from None


def _campaign(
    launcher: Launcher, setting: Setting, plan: Plan, execution: Execution, device: str
) -> Campaign:
    shared = Shared(
        protocol=setting.protocol,
        heads=tuple(plan.heads),
        fingerprint=setting.fingerprint,
        out=execution.out,
        data_root=execution.data_root,
        device=device,
        workers=execution.workers,
        track=execution.track,
        processes=launcher.processes,
    )
    ledger = Ledger(jobs_folder(execution.out, setting.protocol), launcher.name)
    return Campaign(launcher, ledger, plan, shared, execution)


def _submit_missing(campaign: Campaign, cells: Sequence[Watched]) -> None:
    """Submit what is neither on disk nor in a job. For whoever holds the protocol's lock.

    What is in the way of a job goes only when Slurm has taken it. Until then the locks of the cells
    are held, so that no job finds it.
    """
    for watched in cells:
        watched.entry = campaign.ledger.find(watched.name)
    states = states_of(campaign, cells)
    name = campaign.shared.protocol.name
    with ExitStack() as locks:
        missing = [each for each in cells if _is_free(campaign, each, states, locks)]
        if not missing:
            return
        retry = campaign.plan.retry_failed
        tasks = [
            CellJob(campaign.shared, each.cell.head, each.cell.seed, retry) for each in missing
        ]
        jobs = campaign.launcher.submit(tasks, f"contextbench {name}")
        for watched, job in zip(missing, jobs, strict=True):
            _clear(campaign, watched, states)
            watched.entry = campaign.ledger.add(watched.name, job)
    if campaign.plan.fresh:
        (campaign.shared.out / name / "profile.json").unlink(missing_ok=True)
    campaign.say(f"submitted {len(jobs)} cells: {campaign.launcher.name} jobs {', '.join(jobs)}")


def _is_free(
    campaign: Campaign, watched: Watched, states: Mapping[str, JobState], locks: ExitStack
) -> bool:
    """Whether a cell has to be submitted; its lock is in `locks` then."""
    if watched.entry is not None and _is_active(campaign, watched, watched.entry.job, states):
        return False
    try:
        locks.enter_context(cell_lock(watched.cell, campaign.execution))
    except BusyError:  # a process that is no job has it
        watched.entry = None
        return False
    if campaign.plan.fresh:
        return True
    refuse_others(watched.cell, campaign.execution)
    record, retry = stored_run(watched.cell, campaign.execution), campaign.plan.retry_failed
    if record is None or (record.status != "done" and retry):
        return True
    return bool(lacking(record, watched.cell, retry_failed=retry))


def _is_active(
    campaign: Campaign, watched: Watched, job: str, states: Mapping[str, JobState]
) -> bool:
    """Whether a job of an earlier call is waiting or running still."""
    state = states.get(job)
    if state is None:
        raise LaunchError(f"{watched.label} has job {job}, whose state cannot be learnt now")
    if state.phase != "ended" and campaign.plan.fresh:
        raise ConfigError(
            f"{watched.label} has job {job} already, which is {state.phase}: leave out --fresh "
            f"to wait for it, or end it first: {campaign.launcher.cancelling([job])}"
        )
    return state.phase != "ended"


def _clear(campaign: Campaign, watched: Watched, states: Mapping[str, JobState]) -> None:
    """Remove what a submitted cell is not to go on from."""
    cell, plan = watched.cell, campaign.plan
    folder = cell.folder(campaign.execution.out)
    failed = None if plan.fresh else stored_run(cell, campaign.execution)
    if plan.fresh or (failed is not None and spoils_training(failed.failure)):
        discard_state(cell, campaign.execution, quietly=plan.fresh)
    elif failed is None and watched.entry is not None:
        lost = campaign.lost(watched.entry, states.get(watched.entry.job))
        campaign.say(f"{watched.label}: {lost}. It goes on from what was saved")
    (folder / "record.json").unlink(missing_ok=True)
