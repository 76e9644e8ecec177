"""Heads with the settings that a tuning chose for them, under the protocol that it was made for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from contextbench.config.differences import differences
from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.files import ConfigError, nearest, validated
from contextbench.config.fingerprints import differing, same_images
from contextbench.config.grids import RECIPE, values_text, with_values
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.data import build_dataset, dataset_source
from contextbench.records.comparability import part_of_protocol
from contextbench.records.tuning import HeadTuning, Tuned, TuningRecord
from contextbench.runs.cells import Setting
from contextbench.runs.grid import Grid
from contextbench.runs.watching import single_splits
from contextbench.training.execution import Execution

OWN = ("evaluate.", "dataset.evaluate")
"""Keys of what is reported, which a tuning has no part in."""


def without_view(protocol: Protocol, tuning: TuningRecord, execution: Execution) -> Protocol:
    """`protocol` less the view that heads were tuned by, which is never reported; that is said.

    Raises `ConfigError` where another view is on images of its split.
    """
    left = {name: view for name, view in protocol.evaluate.items() if name != tuning.view}
    if len(left) < len(protocol.evaluate):
        if not left:
            raise ConfigError(
                f"protocol {protocol.name} has no view but {tuning.view}, which heads were tuned by"
            )
        if protocol.first_view == tuning.view:
            raise ConfigError(
                f"protocol {protocol.name} has {tuning.view} as its first view, which heads were "
                "tuned by, and which is therefore not reported"
            )
        execution.reporter.say(f"view {tuning.view} is left out: heads were tuned by it")
    facts = dataset_source(protocol.dataset, execution.data_root).facts
    for name in left:
        split = protocol.split(name)
        if single_splits(split, facts) & single_splits(tuning.split, facts):
            raise ConfigError(_tuned_on(name, split, tuning))
    return protocol.model_copy(update={"evaluate": left, "expected": _expected(protocol, left)})


def _expected(protocol: Protocol, views: Iterable[str]) -> Any:
    """What the protocol expects of the views that are left."""
    if protocol.expected is None:
        return None
    kept = {name: each for name, each in protocol.expected.scores.items() if name in set(views)}
    return protocol.expected.model_copy(update={"scores": kept})


def _tuned_on(view: str, split: str, tuning: TuningRecord) -> str:
    return (
        f"--tuned: view {view} reports scores on {split!r}, and heads were tuned by images of "
        f"{tuning.split!r}: such scores are too high. Report another split"
    )


def tuned_grids(
    setting: Setting, heads: Sequence[HeadConfig], tuning: TuningRecord, execution: Execution
) -> list[Grid]:
    """The heads with what was chosen for each, heads of one recipe together.

    Raises `ConfigError` for a tuning that is not over, or of another protocol, other data or other
    heads, and for heads that were not tuned or have no choice.
    """
    _check_same_protocol(setting, tuning)
    _check_same_data(setting, tuning, execution)
    found: dict[str, tuple[Setting, list[HeadConfig]]] = {}
    for head in heads:
        own = _choice_for(head, tuning)
        source = f"--tuned, head {head.name}"
        protocol, chosen = with_values(setting.protocol, head, own.values, source)
        tuned = _tuned(setting, own, tuning)
        execution.reporter.say(f"{head.name}: {values_text(own.values)}, as tuned")
        recipe = protocol.model_dump_json()
        other, group = found.setdefault(recipe, (replace(setting, protocol=protocol), []))
        marked = replace(other, tuned={**other.tuned, head.name: tuned})
        found[recipe] = (marked, [*group, chosen])
    return [*found.values()]


def _tuned(setting: Setting, own: HeadTuning, tuning: TuningRecord) -> Tuned:
    content = setting.protocol.model_dump(mode="json")
    return Tuned(
        digest=tuning.digest,
        protocol_fingerprint=setting.fingerprint,
        head=own,
        others={key: _at(content, key) for key in own.values if key.startswith(RECIPE)},
        grid=tuning.grid,
        seeds=tuning.seeds,
        view=tuning.view,
        settings=tuning.settings,
        split=tuning.split,
        images=tuning.images,
        trained_on=tuning.trained_on,
    )


def _at(content: Any, key: str) -> Any:
    """What a nested mapping holds; None where a group on the way is not set."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def _choice_for(head: HeadConfig, tuning: TuningRecord) -> HeadTuning:
    if head.name not in tuning.heads:
        raise ConfigError(
            f"--tuned: head {head.name} was not tuned, and others were; "
            f"{nearest(head.name, tuning.heads)}"
        )
    own = tuning.heads[head.name]
    if not tuning.finished:
        left = [name for name, each in tuning.heads.items() if not each.over]
        raise ConfigError(
            f"--tuned: the tuning is not over, trials of {', '.join(left)} are left: the same "
            "`contextbench tune` goes on"
        )
    if own.chosen is None:
        causes = dict.fromkeys(trial.cause for trial in own.trials if trial.cause)
        raise ConfigError(
            f"--tuned: there is no choice for {head.name}: none of its {len(own.trials)} trials has"
            f" a score ({'; '.join(causes)})"
        )
    was = own.head
    if was != head.model_dump(mode="json"):
        told = _told(was, head.model_dump(mode="json"))
        raise ConfigError(f"--tuned: head {head.name} was tuned with other options: {told}")
    return own


def _check_same_protocol(setting: Setting, tuning: TuningRecord) -> None:
    """Raise `ConfigError` unless the recipe is that of the tuning; what is reported may differ."""
    protocol = setting.protocol
    view = validated(EvaluateConfig, tuning.settings, "--tuned: the view that was tuned by")
    seen = protocol.with_view(tuning.view, view)
    now = seen.fingerprint(
        tuning.dataset_fingerprint,
        setting.weights_digest,
        tuning.view,
        init_digest=setting.init_digest,
    )
    if now == tuning.fingerprint:
        return
    digests = {"weights_digest": tuning.weights_digest, "init_digest": tuning.init_digest}
    was = {**tuning.protocol, **digests}
    wanted = {
        **protocol.model_dump(mode="json"),
        "weights_digest": setting.weights_digest,
        "init_digest": setting.init_digest,
    }
    told = _told(was, wanted) or "the code's protocol version"
    raise ConfigError(f"--tuned: these choices were made under another protocol: {told}")


def _check_same_data(setting: Setting, tuning: TuningRecord, execution: Execution) -> None:
    """Raise `ConfigError` for other images than those of the tuning, and for reported ones."""
    train, chosen_by, *_ = tuning.dataset_fingerprint.split("/")
    config = setting.protocol.dataset
    now = build_dataset(config, tuning.split, execution.data_root).fingerprint()
    for name, was, found in (
        (config.train, train, setting.train_set.fingerprint()),
        (tuning.split, chosen_by, now),
    ):
        if was != found:
            parts = ", ".join(part.partition(" of ")[0] for part in differing(was, found))
            raise ConfigError(
                f"--tuned: these choices were made on other data: split {name} differs"
                f"{f' in its {parts}' if parts else ''}"
            )
    for view in setting.protocol.evaluate:
        if same_images(setting.seen_set(view).fingerprint(), now):
            raise ConfigError(_tuned_on(view, setting.protocol.split(view), tuning))


def _told(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs of a recipe."""
    return ", ".join(
        f"{key} was {one}, is {other}"
        for key, (one, other) in differences(was, now).items()
        if part_of_protocol(key) and not key.startswith(OWN)
    )
