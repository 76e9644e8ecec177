"""What follows when all cells of a comparison by jobs have records: one more job."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from contextbench.cluster.job import Conclusion
from contextbench.cluster.ledger import CONCLUSION, concluded, jobs_folder
from contextbench.cluster.watch import Campaign, outlast
from contextbench.records.examples import Examples, read_examples
from contextbench.records.profiles import ProfileRecord, read_profile
from contextbench.records.runs import RunRecord
from contextbench.records.stored import RecordError
from contextbench.report.bundle import write_report
from contextbench.report.collection import Collection, assemble
from contextbench.runs.comparison import Plan
from contextbench.system.files import quarantine


def conclude_by_job(campaign: Campaign, runs: Sequence[RunRecord]) -> Collection:
    """Have costs, examples, tables and figures made by a job, unless they were for these runs.

    Where that job fails, or is not due since cells will run again, tables and figures are made
    here, of what there is. Raises `LaunchError` where Slurm refuses the job, `Interrupted` on
    request.
    """
    out, protocol = campaign.shared.out, campaign.shared.protocol
    jobs, folder = jobs_folder(out, protocol), out / protocol.name
    digest = _digest(runs, campaign.plan)
    interrupted = sum(run.status == "interrupted" for run in runs)
    if interrupted:
        campaign.say(f"interrupted cells: {interrupted}; the same command goes on with them")
    elif concluded(jobs) != digest:
        _run(campaign, jobs, digest)
    with campaign.execution.stop.at_once():
        collection = assemble(out, runs, _stored_profile(folder))
        if concluded(jobs) != digest:
            write_report(collection, _stored_examples(folder), folder)
    return collection


def _run(campaign: Campaign, jobs: Path, digest: str) -> None:
    """Wait for a job that concludes: one of an earlier call where it does, else a new one."""
    ledger, launcher = campaign.ledger, campaign.launcher
    earlier = ledger.find(CONCLUSION)
    if earlier is not None:
        outlast(campaign, earlier)
        if concluded(jobs) == digest:
            ledger.remove(CONCLUSION)
            return
    task = Conclusion(campaign.shared, replace(campaign.plan, fresh=False), digest)
    [job] = launcher.submit([task], f"contextbench {campaign.shared.protocol.name} costs")
    entry = ledger.add(CONCLUSION, job)
    campaign.say(f"costs, examples, tables and figures: {launcher.name} job {job}")
    state = outlast(campaign, entry)
    ledger.remove(CONCLUSION)
    if concluded(jobs) != digest:
        campaign.say(f"no costs were measured: {campaign.lost(entry, state)}")


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
    except RecordError as error:
        quarantine(path, error)
        return None


def _stored_examples(folder: Path) -> Examples | None:
    try:
        return read_examples(folder)
    except RecordError:
        return None
