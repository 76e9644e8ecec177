"""What happened to every head while it trained: its loss, and its score where that was watched."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from contextbench.records.watched import Watched
from contextbench.report.collection import Histories, WatchedOfRuns
from contextbench.report.plots import Curve, Curves, Frame, curve_plot, is_wide
from contextbench.report.words import counted, significant
from contextbench.statistics.scores import watched_miou

SMOOTHING = 20  # a curve is averaged over this part of its entries
LOGARITHMIC = 3.0  # highest over lowest loss from which on the axis is logarithmic
LISTED = 5  # steps that a sentence names
STEP = "Training step"

Curved: TypeAlias = "pd.Series[float]"  # values by step
Seeds = dict[str, dict[int, Curved]]  # head -> seed


class Course(NamedTuple):
    """Curves of the heads that have any, and sentences on what they are and lack."""

    curves: Sequence[Curve]
    sentences: Sequence[str]
    label: str  # of the values
    wide: float = math.inf  # highest over lowest value from which on the axis is logarithmic

    def plot(self, frame: Frame) -> Curves:
        """On an axis that is logarithmic where the values span much."""
        wide = is_wide((y for curve in self.curves for y in curve.y), self.wide)
        return curve_plot(self.curves, (STEP, self.label), frame, logarithmic=(False, wide))


def losses_of(histories: Histories) -> Course | None:
    """Smoothed main loss of every head: mean over seeds, and a band from lowest to highest.

    `histories`: head -> seed -> entries with `step` and `main`. The main term, because the
    auxiliary terms differ from head to head. Seeds that end before others are named. None without
    any entry.
    """
    raw: Seeds = {}
    for head, seeds in histories.items():
        for seed, entries in sorted(seeds.items()):
            if len(curve := _losses(entries)):
                raw.setdefault(head, {})[seed] = curve
    if not raw:
        return None
    longest = max(len(each) for seeds in raw.values() for each in seeds.values())
    window = max(1, longest // SMOOTHING)
    bands = [_band(head, list(seeds.values()), window) for head, seeds in raw.items()]
    sentences = list(_of_losses(raw, window))
    return Course(bands, sentences, "Main cross-entropy loss (nats)", LOGARITHMIC)


def watched_of(watched: WatchedOfRuns) -> Course | None:
    """mIoU in percent of every head against steps: each seed, and their mean where all have one.

    Runs that were watched on another part than most are left out, and named. None where no step has
    a score.
    """
    entries = [(head, seed, each) for head in watched for seed, each in watched[head].items()]
    parts = Counter((each[0].split, each[0].images) for *_, each in entries if each)
    part = parts.most_common(1)[0][0] if parts else ("", 0)
    seeds: Seeds = {}
    for head, seed, each in entries:
        curve = _scores([entry for entry in each if (entry.split, entry.images) == part])
        if curve.notna().any():
            seeds.setdefault(head, {})[seed] = curve
    means = [mean for head in seeds if (mean := _mean(head, list(seeds[head].values()))).x.size]
    shown = {(mean.head, seed) for mean in means for seed in seeds[mean.head]}
    missing = [f"{h} seed {s}" for h, s, each in entries if each and (h, s) not in shown]
    failed = [
        f"{head} seed {seed} at step {entry.step}"
        for head, seed, each in entries
        for entry in each
        if entry.failure is not None and (head, seed) in shown
    ]
    sentences = [f"{part[1]} evenly spaced images of {part[0]}, scored during training."]
    if any(mean.singles for mean in means):
        sentences.append("Thin: each seed; bold: their mean, at the steps that all of them have.")
    if missing:
        sentences.append(f"Watched on other images, or without a score: {', '.join(missing)}.")
    if failed:
        sentences.append(
            f"Not counted: {', '.join(failed[:5])}{' and others' * (len(failed) > 5)}."
        )
    return Course(means, sentences, f"mIoU (%), {part[1]} images of {part[0]}") if means else None


def _scores(entries: Sequence[Watched]) -> Curved:
    """mIoU in percent; NaN where it could not be counted."""
    return pd.Series({entry.step: 100 * watched_miou(entry) for entry in entries}, dtype=float)


def _mean(head: str, seeds: Sequence[Curved]) -> Curve:
    """The mean at the steps at which every seed has a score: no other step shows the same runs."""
    means = pd.concat(seeds, axis=1, join="inner").dropna().mean(axis=1).sort_index()
    steps, mean = means.index.to_numpy(), means.to_numpy()
    tip = f"{head}\n{mean[-1]:.1f} % at step {steps[-1]:g}" if len(steps) else head
    singles = [each.reset_index().to_numpy() for each in seeds] if len(seeds) > 1 else []
    return Curve(head, steps, mean, mean, mean, tip, marked=True, singles=singles)


def _losses(entries: Sequence[Any]) -> Curved:
    """The main loss; a step logged again after a resume counts once."""
    losses = {each["step"]: each["main"] for each in entries if "main" in each}
    return pd.Series(losses, dtype=float).sort_index()


def _band(head: str, seeds: Sequence[Curved], window: int) -> Curve:
    """Mean, lowest and highest of the centred moving averages of the seeds.

    Each counts from its first to its last step, between its own steps on a straight line.
    """
    smooth = [each.rolling(window, min_periods=1, center=True).mean() for each in seeds]
    table = pd.concat(smooth, axis=1).sort_index()
    table = table.interpolate(method="index", limit_area="inside")
    tip = _tip(head, [each.iloc[-1] for each in smooth])
    ends = (table.mean(axis=1), table.min(axis=1), table.max(axis=1))
    mean, low, high = (each.to_numpy() for each in ends)
    return Curve(head, table.index.to_numpy(), mean, low, high, tip)


def _tip(head: str, last: Sequence[float]) -> str:
    """The last loss that each seed has: their mean and range."""
    tip = f"{head}\nfinal loss {significant(fmean(last))}"
    if len(last) == 1:
        return tip
    low, high = significant(min(last)), significant(max(last))
    return f"{tip} ({low}–{high} over {counted(len(last), 'seed')})"


def _of_losses(curves: Seeds, window: int) -> Iterator[str]:
    """What the lines are, and which end early."""
    every = [each for seeds in curves.values() for each in seeds.values()]
    spacings = np.concatenate([np.diff(each.index) for each in every])
    span = float(np.median(spacings)) * window if spacings.size else 0.0
    yield f"Moving average over {span:.0f} steps." if span > 1 else "Not smoothed."
    if any(len(seeds) > 1 for seeds in curves.values()):
        yield "Line: mean over the seeds; band: lowest to highest."
    early = list(_early(curves))
    if early:
        yield f"Ended early, then left out of the mean: {', '.join(early)}."


def _early(curves: Seeds) -> Iterator[str]:
    last = max(each.index[-1] for seeds in curves.values() for each in seeds.values())
    for head, seeds in curves.items():
        for seed, each in seeds.items():
            if each.index[-1] < last:
                yield f"{head} seed {seed} at step {each.index[-1]:g}"
