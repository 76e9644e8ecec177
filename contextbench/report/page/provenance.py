"""What was run, where and when, what limits it, and how to run it again."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextbench.config.differences import differences
from contextbench.config.files import ConfigError
from contextbench.config.overrides import with_value
from contextbench.config.protocols import load_protocol
from contextbench.records.comparability import by_head, part_of_protocol, shared_protocol, untuned
from contextbench.records.profiles import ProfileRecord
from contextbench.records.runs import RunRecord
from contextbench.report.collection import Collection
from contextbench.report.words import counted, grouped

HIDDEN = frozenset({"dataset.root"})  # a place on somebody's disk

HEADS_REMARK = "Heads have the options listed below."


Entries = Sequence[tuple[str, str]]  # keys with their values


@dataclass(frozen=True)
class Provenance:
    """All that a reader needs to judge and to repeat a comparison."""

    protocol: Sequence[tuple[str, Entries]]  # section -> entries
    heads: Sequence[tuple[str, str, str, str]]  # name, head, options, weights of losses
    environment: Sequence[tuple[str, Entries]]  # of runs, records and costs, where there are any
    commands: Sequence[str]
    remark: str  # on the commands
    citation: str


def provenance(collection: Collection) -> Provenance:
    """Read from the records alone."""
    runs = collection.runs
    commands, remark = _commands(runs)
    return Provenance(
        protocol=_sections(_shared(runs)),
        heads=[_head_entry(group[0]) for group in by_head(runs).values()],
        environment=[
            ("runs", _environment(runs)),
            ("records", _records(runs)),
            *([("costs", costs)] if (costs := costs_of(collection.profile)) else []),
        ],
        commands=commands,
        remark=remark,
        citation=_citation(runs, collection.images),
    )


def _shared(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The protocol, where tuned heads have values of their own with what these are."""
    content, names = shared_protocol(runs[0]), by_head(runs)
    for key in runs[0].tuned.others if runs[0].tuned else ():
        told = [f"{name} {_value(_tuned_value(names[name][0], key))}" for name in names]
        content = with_value(content, key.split("."), f"tuned: {', '.join(told)}", "tuned")
    return content


def _tuned_value(run: RunRecord, key: str) -> Any:
    return None if run.tuned is None else run.tuned.head.values.get(key)


def _sections(protocol: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Top-level keys with what they hold; single values first."""
    single = [(k, _value(v)) for k, v in protocol.items() if not isinstance(v, Mapping)]
    nested = [
        (key, [(k, _value(v)) for k, v in _flat(value) if f"{key}.{k}" not in HIDDEN])
        for key, value in protocol.items()
        if isinstance(value, Mapping)
    ]
    return [("protocol", single), *nested]


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _head_entry(run: RunRecord) -> tuple[str, str, str, str]:
    def listed(name: str) -> str:
        content = run.head.get(name) or {}
        return ", ".join(f"{key} {_value(value)}" for key, value in content.items()) or "none"

    head = str(run.head.get("head", run.head_name))
    if run.head.get("plugin"):
        head = f"{head}, a plug-in: {listed('plugin')}"
    return run.head_name, head, listed("options"), listed("loss_weights")


def _environment(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Every key of the environments with its value, or with all values where runs differ."""
    keys = dict.fromkeys(key for run in runs for key in run.environment)
    return [
        *((key, _distinct(_value(run.environment.get(key)) for run in runs)) for key in keys),
        ("number format", _distinct(_listed(run.precision) for run in runs)),
    ]


def _records(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    seconds = round(sum(run.train_seconds for run in runs))
    return [
        ("first run started", _date(min(run.started for run in runs))),
        ("last run finished", _date(max(run.finished for run in runs))),
        ("time spent on training", f"{grouped(seconds)} s in {counted(len(runs), 'run')}"),
        ("protocol fingerprint", runs[0].shared_fingerprint),
        ("dataset fingerprint", runs[0].dataset_fingerprint),
    ]


def _distinct(values: Iterable[str]) -> str:
    return " · ".join(dict.fromkeys(values))


def _date(iso: str) -> str:
    return iso.replace("T", " ").replace("+00:00", " UTC")


def costs_of(profile: ProfileRecord | None) -> list[tuple[str, str]]:
    """Where and how costs were measured; nothing where they were not."""
    if profile is None:
        return []
    rounds = max((len(cost.latency_ms) for cost in profile.heads.values()), default=0)
    facts = {
        "scope": profile.scope,
        "backbone": profile.backbone,
        "input": profile.input,
        "input of a training step": profile.training_input,
        "rounds": rounds,
        "number format": _listed(profile.precision),
        "device": profile.environment.get("device"),
        "commit": profile.environment.get("commit"),
        "ratios refer to": profile.baseline,
    }
    return [(key, _value(value)) for key, value in facts.items() if value is not None]


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(values.values()) or "not recorded"


def _commands(runs: Sequence[RunRecord]) -> tuple[list[str], str]:
    """Commands that make these records and this page again, and what to know about them."""
    name = runs[0].protocol_name
    seeds = sorted({run.seed for run in runs})
    settings, remark = _settings(runs[0])
    compare = [
        "contextbench", "compare", "--protocol", name,
        "--heads", ",".join(by_head(runs)),
        "--seeds", ",".join(map(str, seeds)),
        *(part for setting in settings for part in ("--set", setting)),
    ]  # fmt: skip
    tune, chosen = _tuning(runs, compare)
    report = ["contextbench", "report", f"runs/{name}", "-o", "report.html"]
    if runs[0].view_name != runs[0].first_view:
        report += ["--view", runs[0].view_name]
    return [*tune, shlex.join([*compare, *chosen]), shlex.join(report)], remark


def _tuning(runs: Sequence[RunRecord], compare: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command that tuned heads, and what `compare` is given for it; nothing where none did."""
    tuned = runs[0].tuned
    if tuned is None:
        return [], []
    seeds = ",".join(map(str, tuned.seeds))
    words = ["--view", tuned.view, *(w for axis in tuned.grid for w in ("--grid", axis))]
    words += ["--set", f"evaluate.{tuned.view}={json.dumps(tuned.settings)}"]
    command = ["contextbench", "tune", *compare[2:6], "--seeds", seeds, *compare[8:], *words]
    return [shlex.join(command)], ["--tuned", f"runs/{runs[0].protocol_name}-tuning"]


def _settings(run: RunRecord) -> tuple[list[str], str]:
    """What differs from the shipped protocol of this name, as values of `--set`."""
    try:
        shipped = load_protocol(run.protocol_name).model_dump(mode="json")
    except ConfigError:
        return [], f"{HEADS_REMARK} This protocol is not among those shipped."
    changed = {
        key: there
        for key, (_, there) in differences(shipped, untuned(run, run.protocol)).items()
        if part_of_protocol(key) and there != "(not set)"
    }
    return [f"{key}={json.dumps(value)}" for key, value in changed.items()], HEADS_REMARK


def _citation(runs: Sequence[RunRecord], images: int | None) -> str:
    """One sentence to put below a figure."""
    versions = " and ".join(
        dict.fromkeys(
            f"contextbench {run.environment.get('contextbench', '(version not recorded)')}, "
            f"commit {run.environment.get('commit') or 'not recorded'}"
            for run in runs
        )
    )
    seeds = sorted({run.seed for run in runs})
    return (
        f"Measured with {versions}; protocol {runs[0].protocol_name} "
        f"(fingerprint {runs[0].shared_fingerprint}), "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
        + (f", {counted(images, 'image')} evaluated." if images else ".")
    )
