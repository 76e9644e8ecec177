"""Several machines: options of jobs, and the command that joins what machines made."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contextbench.cli.shared import console, guarded
from contextbench.cluster.ledger import jobs_folder
from contextbench.cluster.merge import merge as join
from contextbench.cluster.scheduler import Resources, gigabytes, launcher, minutes, sbatch_options
from contextbench.config.files import ConfigError
from contextbench.config.protocols import Protocol

if TYPE_CHECKING:
    from contextbench.report.collection import Collection
    from contextbench.runs.comparison import Plan
    from contextbench.training.execution import Execution

PANEL = "Jobs, with --launcher"
_option = partial(typer.Option, rich_help_panel=PANEL)

LauncherOption = Annotated[str | None, _option(help="slurm, or local: processes here.")]
PartitionOption = Annotated[str | None, _option(help="Partition of the cluster.")]
GpusOption = Annotated[int, _option(min=0, metavar="N", help="GPUs of a job, on one node.")]
CpusOption = Annotated[
    int | None, _option(min=1, metavar="N", help="CPU cores of a job for each GPU.")
]
MemoryOption = Annotated[str | None, _option(help="Of a job: 32G. Dry run: of a GPU, 24GiB.")]
TimeOption = Annotated[str, _option("--time", help="Of a job: [D-]HH:MM:SS.")]
WidthOption = Annotated[int, _option(min=1, metavar="N", help="Jobs that run at a time.")]
RestartsOption = Annotated[int, _option(min=0, metavar="N", help="Of a cell that is out of time.")]
SbatchOption = Annotated[
    list[str] | None,
    _option("--sbatch", metavar="K=V", help="Other options of sbatch. Repeatable."),
]


LOCAL_OPTIONS = {"gpus", "time", "restarts"}  # of `JobOptions`


@dataclass(frozen=True)
class JobOptions:
    """What a user asks of jobs, as it was written."""

    partition: str | None = None
    gpus: int = 0
    cpus: int | None = None
    memory: str | None = None
    time: str = "24:00:00"
    array_width: int = 256
    restarts: int = 3
    sbatch: Sequence[str] | None = None

    def check_unused(self, launcher: str | None = None) -> None:
        """Raise `ConfigError` where something is asked for that `launcher`, or none, ignores."""

        if launcher not in (None, "local"):
            return
        for each in fields(self):
            given = getattr(self, each.name) != each.default
            if given and (launcher is None or each.name not in LOCAL_OPTIONS):
                option = "--" + each.name.replace("_", "-")
                raise ConfigError(
                    f"{option} is for jobs of Slurm: add --launcher slurm, or leave it out"
                )

    def resources(self) -> Resources:
        """What a job asks for. Raises `ConfigError` for what cannot be read."""

        return Resources(
            minutes=minutes(self.time),
            partition=self.partition,
            gpus=self.gpus,
            cpus=self.cpus,
            memory_gb=None if self.memory is None else gigabytes(self.memory),
            array_width=self.array_width,
            restarts=self.restarts,
            sbatch=sbatch_options(self.sbatch or ()),
        )


def compare_as_jobs(
    name: str,
    options: JobOptions,
    protocol: Protocol,
    plan: "Plan",
    execution: "Execution",
    device: str,
) -> "Collection":
    """A comparison by the launcher `name`. Raises `ConfigError` for wrong options."""
    from contextbench.cluster.launch import compare_on

    options.check_unused(name)
    folder = jobs_folder(execution.out.resolve(), protocol)
    jobs = launcher(name, folder, options.resources())
    return compare_on(jobs, protocol, plan, execution, device=device)


def merge(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs, each of one machine.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make; must not exist.")],
) -> None:
    """Join the runs of several machines in a new folder.

    Cells are copied with all that lies beside them. A cell that two folders hold differently is
    refused, and so are runs of different protocols under one name.

    Example: contextbench merge runs-a runs-b -o runs
    """
    with guarded():
        for line in join(runs, out):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
