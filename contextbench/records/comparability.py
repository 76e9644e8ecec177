"""Whether runs may share a table, and what a reader must know before comparing their numbers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import median, quantiles
from typing import Any

from contextbench.config import averaging
from contextbench.config.differences import differences
from contextbench.config.evaluation import COMPUTING
from contextbench.config.overrides import with_value
from contextbench.config.sampling import INDEPENDENT, Sampling
from contextbench.records.profiles import ProfileRecord
from contextbench.records.runs import NOTABLE_WAIT, Leg, RunRecord
from contextbench.records.stored import RecordError
from contextbench.system.errors import UserError

NOT_PART_OF_PROTOCOL = (
    *("name", "dataset.root", "expected"),
    *(f"evaluate.{name}" for name in COMPUTING),
)
"""What a fingerprint leaves out as well: keys of a protocol, with all that is below them."""

_FRAMES = Sampling(frames="ordered")


CONDITIONS = {"device": None, "processes": 1, "torch": None, "cuda": None, "commit": None}
"""What a run may change when it goes on, with the value where an environment does not say it."""

DISTURBED = 1.5  # third quartile over median of a latency


class MixedProtocolsError(UserError, ValueError):
    """Runs that do not measure the same thing. The message lists what differs, with both values."""


def check_comparable(runs: Sequence[RunRecord]) -> None:
    """Refuse runs of different protocols, of differently configured heads, and duplicates.

    Models from elsewhere share no protocol with anything: of them, what they are scored on and how
    has to agree. Raises `MixedProtocolsError`; `RecordError` when there are no runs or a cell
    occurs twice.
    """
    if not runs:
        raise RecordError("there are no runs to compare")
    own = [run for run in runs if run.imported is None]
    for run in own[1:]:
        if _shared(run) != _shared(own[0]):
            raise MixedProtocolsError(_protocol_difference(own[0], run))
    _check_views(runs)
    for name, same_head in by_head(runs).items():
        _check_head(name, same_head)


def _shared(run: RunRecord) -> tuple[str, str | None]:
    """What all rows of a table have in common: the protocol, and what tuned heads chose from."""
    return run.shared_fingerprint, None if run.tuned is None else run.tuned.digest


def views_of(runs: Iterable[RunRecord]) -> list[str]:
    """Names of the views that runs were evaluated in, the first of each among them."""
    return list(dict.fromkeys(name for run in runs for name in (run.first_view, *run.views)))


def seen_in(runs: Sequence[RunRecord]) -> str:
    """The view that runs are seen in, for a caption; empty where it is the only one."""
    return f", view {runs[0].view_name}" if len(views_of(runs)) > 1 else ""


def _check_views(runs: Sequence[RunRecord]) -> None:
    """Refuse runs whose view of one name was set differently, or is of different data."""
    first, *others = [run for run in runs if run.view is not None] or runs[:1]
    for run in others:
        one, other = first.view, run.view
        if one is None or other is None or _scored_alike(first, run):
            continue
        known = [key for key in one.settings if key in other.settings]  # others came later
        pairs = [{key: v.settings[key] for key in known} | {"split": v.split} for v in (one, other)]
        same_data = one.dataset_fingerprint == other.dataset_fingerprint
        if first.tuned and run.tuned and same_data and pairs[0] == pairs[1]:
            continue  # their fingerprints are of other values of the grid
        listed = _differences(*pairs) or "  its data or the code's protocol version"
        raise MixedProtocolsError(
            f"runs cannot share a table of view {first.view_name}: {_cell(first)} and {_cell(run)} "
            f"differ in\n{listed}"
        )


def _scored_alike(one: RunRecord, other: RunRecord) -> bool:
    """Whether the views that both are seen in score the same, of the same data."""
    first, second = one.view, other.view
    assert first is not None
    assert second is not None
    if one.imported is None and other.imported is None:
        return first.fingerprint == second.fingerprint
    scored = [
        (_measured(view.settings), view.split, view.dataset_fingerprint.split("/")[1:2])
        for view in (first, second)
    ]
    return scored[0] == scored[1] and one.labels.classes == other.labels.classes


def _measured(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Less what changes nothing but rounding."""
    return {key: value for key, value in settings.items() if key not in COMPUTING}


def seen_protocol(run: RunRecord) -> dict[str, Any]:
    """The recorded protocol as if the view that the run is seen in were its only evaluation."""
    content, view = dict(run.protocol), run.view
    settings = {key: value for key, value in run.evaluate_settings.items() if key != "split"}
    if view is not None and isinstance(content.get("dataset"), dict):
        content["dataset"] = {**content["dataset"], "evaluate": view.split}
    return {**content, "evaluate": settings}


def shared_protocol(run: RunRecord) -> dict[str, Any]:
    """`seen_protocol` without the values that were tuned for the run's head."""
    return untuned(run, seen_protocol(run))


def untuned(run: RunRecord, content: dict[str, Any]) -> dict[str, Any]:
    """A protocol of the run, with its own values where those of the head were tuned."""
    for key, value in run.tuned.others.items() if run.tuned is not None else ():
        content = with_value(content, key.split("."), value, "tuned")
    return content


def by_head(runs: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs of each head, by seed; heads in the order of their first run."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(run.head_name, []).append(run)
    return {name: sorted(group, key=lambda run: run.seed) for name, group in groups.items()}


def device_name(environment: Mapping[str, Any]) -> str:
    """The device of a record's environment, as it is printed."""
    return str(environment.get("device") or "unknown device")


def dataset_name(run: RunRecord) -> str:
    """The dataset of a record's protocol; empty where it is not named."""
    dataset = run.protocol.get("dataset")
    return str(dataset["name"]) if isinstance(dataset, dict) and "name" in dataset else ""


def sampling_of(run: RunRecord) -> Sampling:
    """Which images of its split belong together.

    Records of before this was declared do not say. They keep the statistics that they had: frames
    in order for CamVid, the only videos there were, and single images for all others.
    """
    declared = run.labels.sampling
    return declared or (_FRAMES if dataset_name(run) == "camvid" else INDEPENDENT)


def part_of_protocol(key: str) -> bool:
    """Whether a dotted key of a recorded protocol is part of its fingerprint."""
    return not f"{key}.".startswith(tuple(f"{other}." for other in NOT_PART_OF_PROTOCOL))


def warnings_for(runs: Sequence[RunRecord], profile: ProfileRecord | None) -> list[str]:
    """What limits the comparison, one sentence each; empty where nothing does."""
    warnings = [
        *_spread_of("number format", {_cell(run): _precision(run.precision) for run in runs}),
        *_spread_of(
            "training device (training times are not comparable)",
            {_cell(run): device_name(run.environment) for run in runs},
        ),
        *_spread_of("code version", {_cell(run): run.environment.get("commit") for run in runs}),
        *_spread_of(
            "number of evaluated images",
            {_cell(run): run.evaluated_images for run in runs if run.totals is not None},
        ),
        *_spread_of(
            "number of scored seeds",
            {
                name: sum(run.totals is not None for run in group)
                for name, group in by_head(runs).items()
            },
        ),
        *_absent_classes(runs),
        *_waiting(runs),
        *_averaging(runs),
        *_separate_batch_norms(runs),
        *_changed_on_the_way(runs),
        *_imported(runs),
    ]
    return warnings if profile is None else [*warnings, *_profile_warnings(runs, profile)]


def uncounted_operators(runs: Sequence[RunRecord], profile: ProfileRecord | None) -> list[str]:
    """A sentence on operators that are in no count of costs; it limits no comparison of scores.

    What all heads have in common is said once; the rest for each head that has it.
    """
    if profile is None:
        return []
    present = by_head(runs) or profile.heads
    listed = {
        name: set(counts.uncounted)
        for name, costs in profile.heads.items()
        if name in present
        and (counts := costs.counts.get(profile.scope)) is not None
        and counts.uncounted
    }
    if not listed:
        return []
    common = set.intersection(*listed.values())
    own = {name: operators - common for name, operators in listed.items()}
    parts = [", ".join(sorted(common))] if common else []
    parts += [f"{name}: {', '.join(sorted(rest))}" for name, rest in own.items() if rest]
    return [f"Operators that no MAC count includes ({'; '.join(parts)})."]


def _check_head(name: str, runs: Sequence[RunRecord]) -> None:
    first, *others = runs
    for run in others:
        different = _differences(first.head, run.head)
        if different:
            raise MixedProtocolsError(
                f"head {name!r} is not configured alike in its seeds and cannot be averaged: "
                f"{_cell(first)} and {_cell(run)} differ in\n{different}"
            )
    repeated = [seed for seed, count in Counter(run.seed for run in runs).items() if count > 1]
    if repeated:
        raise RecordError(f"head {name!r} has more than one run of seed {repeated[0]}")


def _protocol_difference(first: RunRecord, other: RunRecord) -> str:
    left, right = (
        {
            **shared_protocol(run.seen(None)),
            "dataset_fingerprint": run.dataset_fingerprint,
            "weights_digest": run.weights_digest,
            "init_digest": run.init_digest,
            "tuned": "no" if run.tuned is None else f"by tuning {run.tuned.digest}",
        }
        for run in (first, other)
    )
    return (
        "runs of different protocols cannot share a table: "
        f"{_cell(first)} ({first.protocol_name}, {first.shared_fingerprint}) and "
        f"{_cell(other)} ({other.protocol_name}, {other.shared_fingerprint}) differ in\n"
        + (_differences(left, right) or "  the code's protocol version")
    )


def _differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    """Dotted keys with both values, one a line."""
    return "\n".join(
        f"  {key}: {one} / {other}"
        for key, (one, other) in differences(left, right).items()
        if part_of_protocol(key)
    )


def _cell(run: RunRecord) -> str:
    return f"{run.head_name} seed {run.seed}"


def _precision(precision: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(precision.items())) or "not recorded"


def _spread_of(what: str, values: Mapping[str, object]) -> list[str]:
    """One sentence where the values differ: each value with the cells that have it."""
    cells: dict[str, list[str]] = {}
    for cell, value in values.items():
        cells.setdefault(str(value), []).append(cell)
    if len(cells) < 2:
        return []
    listed = "; ".join(f"{value}: {', '.join(names)}" for value, names in cells.items())
    return [f"The {what} differs between rows ({listed})."]


def _absent_classes(runs: Sequence[RunRecord]) -> list[str]:
    """Classes without a labelled pixel, left out of mIoU, and the pixels predicted as them."""
    absent: dict[tuple[str, ...], list[str]] = {}
    stray: dict[str, int] = {}
    for run in runs:
        if run.totals is None:
            continue
        union = zip(run.labels.classes, run.totals.labelled, run.totals.predicted, strict=True)
        lacking = [(name, predicted) for name, labelled, predicted in union if labelled == 0]
        absent.setdefault(tuple(name for name, _ in lacking), []).append(_cell(run))
        stray[_cell(run)] = sum(predicted for _, predicted in lacking)
    every = len(absent) == 1
    told = "; ".join(f"{cell}: {count}" for cell, count in stray.items() if count)
    pixels = [f"Pixels predicted as classes without a label ({told})."] if told else []
    return [
        *(
            f"Without a labelled pixel, left out of mIoU: {', '.join(names)}."
            if every
            else f"Left out of the mIoU of {', '.join(cells)}, but not of every row: "
            f"{', '.join(names)}."
            for names, cells in absent.items()
            if names
        ),
        *pixels,
    ]


def _waiting(runs: Sequence[RunRecord]) -> list[str]:
    """Cells whose training was slowed down by loading, said in one sentence."""
    shares = {_cell(run): run.wait_share for run in runs}
    slow = {cell: share for cell, share in shares.items() if share and share > NOTABLE_WAIT}
    if not slow:
        return []
    cell, most = max(slow.items(), key=lambda item: item[1])
    others = f" and more than {NOTABLE_WAIT:.0%} in {len(slow)} cells" if len(slow) > 1 else ""
    return [
        f"Training waited for data {most:.0%} of the time ({cell}){others}, so training times are "
        "partly those of loading: see --workers and `contextbench profile-data`."
    ]


def _averaging(runs: Sequence[RunRecord]) -> list[str]:
    """What is said of averaged weights before training, of the protocol that runs share."""
    train = runs[0].protocol.get("train") if runs else None
    decay, steps = (train.get("ema"), train.get("steps")) if isinstance(train, dict) else (0, 0)
    if not isinstance(decay, float) or not isinstance(steps, int):
        return []
    text = averaging.caution(decay, steps)
    return [] if text is None else [text]


def _separate_batch_norms(runs: Sequence[RunRecord]) -> list[str]:
    """Cells whose batch norm saw only a part of each batch, said in one sentence."""
    listed = [
        f"{_cell(run)}, {_steps([leg])} on {leg.environment.get('processes')} processes"
        for run in runs
        for leg in _legs(run)
        if str(leg.environment.get("batch_norm")).startswith("warning")
        and leg.last_step > leg.first_step
    ]
    if not listed:
        return []
    return [
        "Batch norm used the images of each process alone, since it is synchronised on GPUs only, "
        f"so these runs are not those of one process: {'; '.join(listed)}."
    ]


def _changed_on_the_way(runs: Sequence[RunRecord]) -> list[str]:
    """Runs that went on under other conditions than they began with, one sentence each."""
    sentences = []
    for run in runs:
        parts = [list(legs) for _, legs in groupby(_legs(run), _conditions)]
        told = [_conditions(legs[0]) for legs in parts]
        changed = [key for key in CONDITIONS if len({each[key] for each in told}) > 1]
        listed = "; ".join(
            f"{_steps(legs)}: {', '.join(f'{key} {each[key]}' for key in changed)}"
            for legs, each in zip(parts, told, strict=True)
        )
        if changed:
            sentences.append(f"{_cell(run)} was interrupted and went on elsewhere ({listed}).")
    return sentences


def _imported(runs: Sequence[RunRecord]) -> list[str]:
    """Models that were trained elsewhere, one sentence each."""
    return [
        f"{_cell(run)} was trained elsewhere, by a recipe of its own (imported from "
        f"{run.imported.source}, {run.imported.file}"
        f"{f'; published: {run.imported.published}' if run.imported.published else ''}"
        f"{'; some tensors were missing' if run.imported.partial else ''}): its score is that of "
        "this model on these images, and says nothing of its method under this protocol."
        for run in runs
        if run.imported is not None
    ]


def _legs(run: RunRecord) -> Sequence[Leg]:
    """Of records of before legs were told, the one that they tell of."""
    whole = Leg(
        started=run.started,
        finished=run.finished,
        first_step=0,
        last_step=run.steps,
        precision=run.precision,
        environment=run.environment,
    )
    return run.legs or [whole]


def _conditions(leg: Leg) -> dict[str, str]:
    return {key: str(leg.environment.get(key, default)) for key, default in CONDITIONS.items()}


def _steps(legs: Sequence[Leg]) -> str:
    first, last = legs[0].first_step + 1, legs[-1].last_step
    return f"steps {first} to {last}" if last >= first else "evaluation"


def _profile_warnings(runs: Sequence[RunRecord], profile: ProfileRecord) -> list[str]:
    pairs = [
        ("protocol", profile.protocol_name, [run.protocol_name for run in runs]),
        ("number format", _precision(profile.precision), [_precision(r.precision) for r in runs]),
        ("device", device_name(profile.environment), [device_name(r.environment) for r in runs]),
    ]
    warnings = [
        f"Costs were measured with {what} {measured}, but runs used {', '.join(sorted(other))}."
        for what, measured, used in pairs
        if (other := set(used) - {measured})
    ]
    if profile.scope != "model":
        warnings.append(f"Costs cover the {profile.scope} alone, without the backbone.")
    return [*warnings, *_disturbed(profile), *profile.notes]


def _disturbed(profile: ProfileRecord) -> list[str]:
    """Heads whose times scatter as on a device that has other work."""
    found = {}
    for name, cost in profile.heads.items():
        if len(cost.latency_ms) > 1:
            ratio = quantiles(cost.latency_ms, n=4, method="inclusive")[2] / median(cost.latency_ms)
            if ratio > DISTURBED:
                found[name] = f"{name} {ratio:.1f}"
    if not found:
        return []
    return [
        "Latency was measured on a busy device: a quarter of the passes took more than "
        f"{DISTURBED} times the median ({', '.join(found.values())}). Ratios suffer less than "
        "milliseconds; without profile.json the next compare measures again."
    ]
