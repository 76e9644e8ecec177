"""A comparison from start to end: precision, runs, costs, tables and figures in one folder."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextbench.averaging import caution
from contextbench.build import check_weights
from contextbench.cells import Cell, Execution, Setting, lock, open_setting
from contextbench.config import HeadConfig, Protocol
from contextbench.distributed import own_share
from contextbench.examples import store_examples
from contextbench.files import quarantine, write_json
from contextbench.grid import run_grid
from contextbench.measure.profile import Timing, choose_for, profile_models, watched
from contextbench.precision import Precision
from contextbench.provenance import device_name
from contextbench.report.bundle import write_report
from contextbench.report.collection import Collection, assemble
from contextbench.results import (
    ProfileRecord,
    RecordError,
    RunRecord,
    read_profile,
    write_model,
)


@dataclass(frozen=True)
class Plan:
    """What to compare and how thoroughly to time it."""

    heads: Sequence[HeadConfig]
    seeds: Sequence[int]
    fresh: bool = False
    retry_failed: bool = False
    rounds: int = 15
    train_rounds: int = 5
    examples: int = 4  # images that are stored with predictions and attention


def compare(protocol: Protocol, plan: Plan, execution: Execution) -> Collection:
    """Run what is missing, measure costs, write `<out>/<protocol>/table.*` and `figures/`.

    Returns the records of all cells. Images of the dataset, with what the first seed's models make
    of them, go to `examples/`. Of several processes the first one does all but training and
    evaluation, while the others wait.
    Raises `DataError`, `ConfigError` and `OutputError` for wrong input, `Interrupted` on request.
    """
    say_weights(protocol, execution)
    setting = open_setting(protocol, execution.data_root)
    with lock(execution, protocol):
        precision = shared_precision(setting, plan.heads, execution)
    runs = run_grid(
        setting,
        plan.heads,
        plan.seeds,
        precision,
        execution,
        fresh=plan.fresh,
        retry_failed=plan.retry_failed,
    )
    return conclude(setting, plan, runs, precision, execution)


def say_weights(protocol: Protocol, execution: Execution) -> None:
    """Say what the backbone starts from, and what is odd about averaging its weights.

    Raises `ConfigError` for weights that do not fit it.
    """
    origin = execution.world.from_main(lambda: check_weights(protocol))
    if origin is not None:
        execution.reporter.say(f"backbone weights: {origin}")
    train = protocol.train
    if train.ema is not None and (text := caution(train.ema, train.steps)) is not None:
        execution.reporter.say(f"caution: {text}")


def conclude(
    setting: Setting,
    plan: Plan,
    runs: Sequence[RunRecord],
    precision: Precision,
    execution: Execution,
) -> Collection:
    """What a comparison does when its cells have records: costs, examples, tables, figures."""
    protocol = setting.protocol

    def work() -> Collection:
        profile = _profile(setting, plan, precision, execution)
        shown = _first_cells(setting, plan, runs, precision)
        examples = store_examples(setting, shown, execution, count=plan.examples)
        with execution.stop.at_once():
            collection = assemble(execution.out, runs, profile)
            write_report(collection, examples, execution.out / protocol.name)
        return collection

    with lock(execution, protocol):
        return execution.world.from_main(work)


def shared_precision(
    setting: Setting, heads: Sequence[HeadConfig], execution: Execution
) -> Precision:
    """The number format and layout of all runs: as the protocol says, or timed once and stored.

    The choice is kept in `precision.json`, so that cells which run later, or after a restart, share
    it; another device chooses anew.
    """
    wanted = setting.protocol.precision
    if wanted != "auto":
        return Precision(dtype=wanted)
    return execution.world.from_main(lambda: _timed_precision(setting, heads, execution))


def _timed_precision(
    setting: Setting, heads: Sequence[HeadConfig], execution: Execution
) -> Precision:
    path = execution.out / setting.protocol.name / "precision.json"
    device = device_name(execution.device)
    stored = _stored_precision(path, device)
    if stored is not None:
        return stored
    execution.reporter.say(f"timing number formats and memory layouts on {device}")
    protocol = own_share(setting.protocol, execution.world)
    choice = choose_for(protocol, heads, setting.num_classes, execution.device)
    write_json(path, {"device": device, **choice.as_dict()})
    chosen = choice.chosen
    execution.reporter.say(f"chose {chosen.dtype}, {chosen.memory_format} for all heads")
    return chosen


def _stored_precision(path: Path, device: str) -> Precision | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Precision(**content["chosen"]) if content["device"] == device else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        quarantine(path, f"no usable choice: {error!r}")
        return None


def _profile(
    setting: Setting, plan: Plan, precision: Precision, execution: Execution
) -> ProfileRecord:
    path = execution.out / setting.protocol.name / "profile.json"
    identity = _profile_identity(setting, plan.heads, precision, execution)
    if not plan.fresh and (stored := _stored_profile(path, identity)) is not None:
        return stored
    task = watched(execution.reporter, execution.stop)
    timing = Timing(plan.rounds, plan.train_rounds, execution.device, precision, task)
    protocol = own_share(setting.protocol, execution.world)
    profile = profile_models(protocol, plan.heads, setting.num_classes, image_size(setting), timing)
    profile = profile.model_copy(update={"identity": identity})
    write_model(path, profile)
    return profile


def image_size(setting: Setting) -> tuple[int, int]:
    """Height and width that the model sees at evaluation, at the protocol's first scale."""
    height, width = setting.evaluate_set[0].image.shape[-2:]
    scale = setting.protocol.evaluate.scales[0]
    return max(1, round(height * scale)), max(1, round(width * scale))


def _profile_identity(
    setting: Setting, heads: Sequence[HeadConfig], precision: Precision, execution: Execution
) -> str:
    content: list[Any] = [setting.fingerprint, str(precision), device_name(execution.device)]
    content += [head.model_dump(mode="json") for head in heads]
    if execution.world.size > 1:
        content.append(execution.world.size)  # which the batch of the training step depends on
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _stored_profile(path: Path, identity: str) -> ProfileRecord | None:
    if not path.exists():
        return None
    try:
        profile = read_profile(path)
    except RecordError as error:
        quarantine(path, error)
        return None
    return profile if profile.identity == identity else None


def _first_cells(
    setting: Setting, plan: Plan, runs: Sequence[RunRecord], precision: Precision
) -> list[Cell]:
    """The cells of the first seed that are done."""
    seed = plan.seeds[0]
    done = {run.head_name for run in runs if run.status == "done" and run.seed == seed}
    return [Cell(setting, head, seed, precision) for head in plan.heads if head.name in done]
