"""What is said of tuned heads: their budget, their choices, and how sure these are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from contextbench.config.grids import values_text
from contextbench.records.comparability import by_head
from contextbench.records.runs import RunRecord
from contextbench.records.tuning import Basis, HeadTuning, Tuned
from contextbench.report.words import counted, enumerated, percent

ENDS = 3  # values of an axis from which on it is said that the chosen one lies at an end


def tuned_heads(runs: Iterable[RunRecord]) -> dict[str, Tuned]:
    """Head -> what it was tuned with; empty where heads were not tuned."""
    firsts = {name: group[0].tuned for name, group in by_head(runs).items()}
    return {name: tuned for name, tuned in firsts.items() if tuned is not None}


def tuned_notes(runs: Sequence[RunRecord]) -> list[str]:
    """What readers of a table of tuned heads must know; empty where they are not."""
    tuned = tuned_heads(runs)
    if not tuned:
        return []
    basis = next(iter(tuned.values()))
    heads = {name: each.head for name, each in tuned.items()}
    return [*sentences(basis, heads), *_of_runs(basis, runs)]


def budget_fact(runs: Sequence[RunRecord]) -> list[str]:
    """The budget in a few words, where heads are tuned."""
    trials = [len(each.head.trials) for each in tuned_heads(runs).values()]
    return [f"tuned, {counted(trials[0], 'trial')} a head"] if trials else []


def sentences(basis: Basis, heads: Mapping[str, HeadTuning]) -> list[str]:
    """The budget, the choices, and what limits them, one sentence or two each."""
    lines = (_budget(basis, heads), _chosen(heads), _noise(basis, heads), _failed(heads))
    further = (_at_ends(heads), _trained_on(basis))
    return [line for line in (*lines, *further) if line]


def axis_values(head: HeadTuning, key: str) -> list[Any]:
    """The values of a key in the order of the grid; none where the head was not tuned in it."""
    found: list[Any] = []
    for trial in head.trials:
        if key in trial.values and trial.values[key] not in found:
            found.append(trial.values[key])
    return found


def tuned_keys(heads: Mapping[str, HeadTuning]) -> list[str]:
    """Every key that some head was tuned in."""
    return list(dict.fromkeys(key for head in heads.values() for key in head.trials[0].values))


def _budget(basis: Basis, heads: Mapping[str, HeadTuning]) -> str:
    trials = len(next(iter(heads.values())).trials)
    seeds = f"{'seed' if len(basis.seeds) == 1 else 'seeds'} {', '.join(map(str, basis.seeds))}"
    return (
        f"Tuned: each head got {counted(trials, 'trial')} of {'; '.join(basis.grid)}, with {seeds},"
        f" and has the values of its highest mIoU in view {basis.view} ({basis.images} images of "
        f"{basis.split}), which is not reported."
    )


def _chosen(heads: Mapping[str, HeadTuning]) -> str:
    chosen = [
        f"{name} {values_text(head.values)} ({percent(head.score)} % there)"
        for name, head in heads.items()
        if head.score is not None
    ]
    none = [name for name, head in heads.items() if head.score is None]
    lost = f" No choice for {enumerated(none)}: no trial has a score." if none else ""
    return (f"Chosen: {'; '.join(chosen)}." if chosen else "") + lost


def _noise(basis: Basis, heads: Mapping[str, HeadTuning]) -> str:
    """Which choices are no more than a point estimate."""
    judged = {name: head for name, head in heads.items() if head.chosen is not None}
    if not judged:
        return ""
    unknown = [name for name, head in judged.items() if head.compared is None]
    rest = f" Not judged: {enumerated(unknown)}." if unknown else ""
    alike = [
        f"{name} {len(head.alike)} of {sum(t.score is not None for t in head.trials) - 1}"
        for name, head in judged.items()
        if head.alike
    ]
    listed = (
        f"other trials are not separated from the chosen one (within noise): {', '.join(alike)}"
    )
    apart = "each choice is separated from its other trials"
    if any(head.compared == "trainings" for head in judged.values()):
        return f"Over trainings and images, {listed if alike else apart}.{rest}"
    trainings = "one training" if len(basis.seeds) == 1 else f"{len(basis.seeds)} trainings"
    first = f"Choices rest on {trainings} a trial, so others may choose otherwise"
    if len(unknown) == len(judged):
        return f"{first}.{rest}"
    return f"{first}; over images alone, {listed if alike else apart}.{rest}"


def _failed(heads: Mapping[str, HeadTuning]) -> str:
    """Each cause once, less what follows its first clause: the records have all of it."""
    failed: dict[str, list[str]] = {}
    for name, head in heads.items():
        for trial in head.trials:
            if trial.scores and trial.score is None:
                cause = ":".join((trial.cause or "no class is labelled").split(":")[:2])
                failed.setdefault(cause, []).append(f"{name} {values_text(trial.values)}")
    listed = [f"{'; '.join(trials)} ({cause})" for cause, trials in failed.items()]
    return f"Trials without a score, which cannot be chosen: {'; '.join(listed)}." if failed else ""


def _at_ends(heads: Mapping[str, HeadTuning]) -> str:
    found = [
        f"{name} {values_text({key: value})}"
        for name, head in heads.items()
        for key, value in head.values.items()
        if _at_end(value, axis_values(head, key))
    ]
    text = "At an end of the values tried, so that better ones may lie beyond"
    return f"{text}: {'; '.join(found)}." if found else ""


def _at_end(value: Any, values: Sequence[Any]) -> bool:
    numbers = all(isinstance(each, Real) and not isinstance(each, bool) for each in values)
    return numbers and len(values) >= ENDS and value in (min(values), max(values))


def _trained_on(basis: Basis) -> str:
    if not basis.trained_on:
        return ""
    return (
        f"Heads are trained on images of {basis.split}, which they were tuned by: such a choice "
        "favours what fits these closest."
    )


def _of_runs(basis: Basis, runs: Sequence[RunRecord]) -> Iterator[str]:
    both = sorted({run.seed for run in runs} & set(basis.seeds))
    if both:
        listed = enumerated([*map(str, both)])
        yield (
            f"Of {'seed' if len(both) == 1 else 'seeds'} {listed} the chosen trial is this very "
            "training: it was picked, though by other images. Seeds that were not tuned with are "
            "free of that."
        )
    lengths = {run.head_name: _length(run) for run in runs}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        yield f"Heads were trained on different numbers of crops ({listed})."


def _length(run: RunRecord) -> str:
    train = run.protocol.get("train")
    settings = train if isinstance(train, dict) else {}
    return f"{settings.get('steps')} steps of {settings.get('batch')}"
