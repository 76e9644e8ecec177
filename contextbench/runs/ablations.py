"""The runs of an ablation: what is missing of its rows, under one number format."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import BackboneConfig, Protocol
from contextbench.models.build import build_model, loss_weights
from contextbench.models.precision import Precision
from contextbench.papers.ablations import Ablation, Variant, variants
from contextbench.runs.cells import lock, open_setting
from contextbench.runs.comparison import say_weights, shared_precision
from contextbench.runs.grid import Grid, run_grids
from contextbench.training.execution import Execution

TRIAL_CLASSES = 2  # of the models that are built to see whether they can be
PLAIN_BACKBONE = BackboneConfig(name="resnet10")


@dataclass(frozen=True)
class Plan:
    """Which seeds to run, and what to do with what is on disk."""

    seeds: Sequence[int]
    fresh: bool = False
    retry_failed: bool = False


def run_ablation(
    ablation: Ablation, protocol: Protocol, plan: Plan, execution: Execution
) -> dict[str, str]:
    """Run what is missing; return why rows cannot be run, by their labels.

    Cells lie with those of comparisons, `<out>/<protocol>/<head>/seed-<n>`; rows that change the
    protocol have a folder of their own beside it. All share the number format of `protocol`.
    Raises `ConfigError` for options that a head lacks, cells that hold other configurations, and
    when no row can be run; `DataError`, `OutputError` and `Interrupted` as a comparison does.
    """
    rows = variants(ablation, protocol)
    source = str(ablation.path)
    unsuitable = {v.row.label: why for v in rows if (why := _unsuitable(v, source))}
    runnable = [v for v in rows if v.row.label not in unsuitable]
    if not runnable:
        reasons = "; ".join(dict.fromkeys(unsuitable.values()))
        raise ConfigError(
            f"ablation {ablation.name!r} has no row that runs under {protocol.name!r}: {reasons}"
        )
    protocols = {each.name: each for each in (protocol, *(v.protocol for v in runnable))}
    for each in protocols.values():
        say_weights(each, execution)
    settings = {n: open_setting(each, execution.data_root) for n, each in protocols.items()}
    heads = list({v.row.head.name: v.row.head for v in runnable}.values())
    with lock(execution, protocol):
        precision = shared_precision(settings[protocol.name], heads, execution)
    grids = [(settings[name], group) for name, group in _heads_by_protocol(runnable).items()]
    _run(grids, plan, precision, execution)
    return unsuitable


def _unsuitable(variant: Variant, source: str) -> str | None:
    """Why the protocol's backbone cannot be built as the row wants it; None if it can.

    What is wrong with the head itself is a mistake in the file and raised as `ConfigError`.
    """
    protocol, head = variant.protocol, variant.row.head
    plain = protocol.model_copy(update={"backbone": PLAIN_BACKBONE})
    with torch.device("meta"):
        try:
            model = build_model(plain, head, TRIAL_CLASSES, seed=0, pretrained=False)
            loss_weights(model, head)
        except ConfigError as error:
            raise ConfigError(f"{source}: row {variant.row.label!r}: {error}") from error
        try:
            build_model(protocol, head, TRIAL_CLASSES, seed=0, pretrained=False)
        except ConfigError as error:
            return str(error)
    return None


def _heads_by_protocol(rows: Iterable[Variant]) -> dict[str, list[HeadConfig]]:
    """Name of the protocol -> heads without repetition, in the order of the rows."""
    heads: dict[str, dict[str, HeadConfig]] = {}
    for variant in rows:
        heads.setdefault(variant.protocol.name, {})[variant.row.head.name] = variant.row.head
    return {name: list(group.values()) for name, group in heads.items()}


def _run(grids: Sequence[Grid], plan: Plan, precision: Precision, execution: Execution) -> None:
    options = {"fresh": plan.fresh, "retry_failed": plan.retry_failed}
    records = run_grids(grids, plan.seeds, precision, execution, **options)
    for setting, _ in grids:
        execution.reporter.say(f"protocol {setting.protocol.name}")
        next(records)
