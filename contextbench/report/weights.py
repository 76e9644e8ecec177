"""Which of the weights that a training passed through its scores belong to."""

import math
from collections.abc import Sequence
from typing import Any

from contextbench.records.runs import RunRecord
from contextbench.records.watched import Watched
from contextbench.statistics.scores import watched_miou


def weights_text(runs: Sequence[RunRecord]) -> str:
    """Of the scored seeds of one head; by seed where they differ. Empty where none is scored."""
    found = {run.seed: _weights_of(run) for run in runs if run.totals is not None}
    texts = dict.fromkeys(found.values())
    if len(texts) < 2:
        return "".join(texts)
    return "; ".join(f"seed {seed}: {text}" for seed, text in sorted(found.items()))


def weights_sentence(texts: dict[str, str]) -> str:
    """What the scores of a table belong to: head -> what `weights_text` says."""
    known = {head: text for head, text in texts.items() if text}
    distinct = dict.fromkeys(known.values())
    if not distinct:
        return ""
    if len(distinct) == 1:
        return f"Weights: {next(iter(distinct))}."
    return f"Weights: {'. '.join(f'{head}: {text}' for head, text in known.items())}."


def _weights_of(run: RunRecord) -> str:
    if run.imported is not None:
        return f"trained elsewhere, from {run.imported.source}"
    train: Any = run.protocol.get("train")
    decay = train.get("ema") if isinstance(train, dict) else None
    averaged = f", averaged with decay {decay:g}" if isinstance(decay, float) else ""
    if run.kept is None:
        return f"those of the last step, {run.steps}{averaged}"
    return f"those of step {run.kept.step} of {run.steps}{averaged}, {_score(run.kept)}"


def _score(kept: Watched) -> str:
    miou = watched_miou(kept)
    score = "" if math.isnan(miou) else f", {100 * miou:.1f} %,"
    return f"with the highest mIoU{score} on {kept.images} images of {kept.split}"
