"""What happened to every head while it trained: its loss, and its score where that was watched."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from contextbench.records.watched import Watched
from contextbench.report.collection import Histories, WatchedOfRuns
from contextbench.report.geometry import FloatArray
from contextbench.report.plots import Curve, Curves, Frame, curve_plot, is_wide
from contextbench.report.words import counted, significant
from contextbench.statistics.scores import watched_miou

SMOOTHING = 20  # a curve is averaged over this part of its entries
LOGARITHMIC = 3.0  # highest over lowest loss from which on the axis is logarithmic
LISTED = 5  # steps that a sentence names
STEP = "Training step"

Seeds = dict[str, dict[int, FloatArray]]  # head -> seed -> (2, entries): steps, values


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
    auxiliary terms differ from head to head. A loss that is not finite is a gap, which a sentence
    names, as are seeds that end before others. None without any finite loss.
    """
    raw = {
        head: {
            seed: curve
            for seed, entries in sorted(seeds.items())
            if (curve := _losses(entries)).size
        }
        for head, seeds in histories.items()
    }
    lengths = [each.shape[1] for seeds in raw.values() for each in seeds.values()]
    if not lengths:
        return None
    window = max(1, max(lengths) // SMOOTHING)
    bands = [
        _band(head, [_smoothed(each, window) for each in seeds.values()])
        for head, seeds in raw.items()
        if seeds
    ]
    known = [band for band in bands if not np.isnan(band.y).all()]
    sentences = list(_of_losses(raw, window))
    return (
        Course(known, sentences, "Main cross-entropy loss (nats)", LOGARITHMIC) if known else None
    )


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
        if not np.isnan(curve[1]).all():
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


def _scores(entries: Sequence[Watched]) -> FloatArray:
    """(2, entries): steps, and mIoU in percent."""
    scores = {entry.step: 100 * watched_miou(entry) for entry in entries}
    return np.array([*scores.items()], dtype=np.float64).reshape(-1, 2).T


def _mean(head: str, seeds: Sequence[FloatArray]) -> Curve:
    """The mean at the steps at which every seed has a score: no other step shows the same runs."""
    known = [dict(curve[:, ~np.isnan(curve[1])].T.tolist()) for curve in seeds]
    steps = sorted(set.intersection(*map(set, known)))
    mean = np.array([fmean(each[step] for each in known) for step in steps])
    tip = f"{head}\n{mean[-1]:.1f} % at step {steps[-1]:g}" if steps else head
    singles = [curve.T for curve in seeds] if len(seeds) > 1 else []
    return Curve(head, np.array(steps), mean, mean, mean, tip, marked=True, singles=singles)


def _losses(entries: Sequence[Any]) -> FloatArray:
    """(2, entries): steps and main loss; a step logged again after a resume counts once.

    An entry without a finite loss is NaN; one without a step is left out.
    """
    losses = {}
    for entry in entries:
        step, main = (_number(entry, key) for key in ("step", "main"))
        if math.isfinite(step):
            losses[step] = main if math.isfinite(main) else math.nan
    return np.array(sorted(losses.items())).reshape(-1, 2).T


def _number(entry: Any, key: str) -> float:
    value = entry.get(key) if isinstance(entry, Mapping) else None
    return float(value) if isinstance(value, Real) else math.nan


def _smoothed(curve: FloatArray, window: int) -> FloatArray:
    """Centred moving average over the losses that there are in the window; gaps stay gaps."""
    steps, losses = curve
    window = min(window, len(losses))
    known = ~np.isnan(losses)
    kernel = np.ones(window)
    total = np.convolve(np.where(known, losses, 0.0), kernel, mode="same")
    count = np.convolve(known, kernel, mode="same")
    mean = np.full(len(losses), np.nan)
    np.divide(total, count, out=mean, where=known)
    return np.stack((steps, mean))


def _band(head: str, seeds: Sequence[FloatArray]) -> Curve:
    """Mean, lowest and highest of the seeds, each from its first to its last step."""
    steps = np.unique(np.concatenate([curve[0] for curve in seeds]))
    losses = np.stack([np.interp(steps, x, y, left=np.nan, right=np.nan) for x, y in seeds])
    known = ~np.isnan(losses)
    mean = np.full(len(steps), np.nan)
    np.divide(np.where(known, losses, 0.0).sum(0), known.sum(0), out=mean, where=known.any(0))
    low = np.where(known, losses, np.inf).min(axis=0)
    high = np.where(known, losses, -np.inf).max(axis=0)
    low, high = (np.where(known.any(0), end, np.nan) for end in (low, high))
    return Curve(head, steps, mean, low, high, _tip(head, losses))


def _tip(head: str, losses: FloatArray) -> str:
    """The last loss that each seed has; their mean and range."""
    last = [seed[~np.isnan(seed)][-1] for seed in losses if not np.isnan(seed).all()]
    if not last:
        return head
    tip = f"{head}\nfinal loss {significant(float(np.mean(last)))}"
    if len(last) == 1:
        return tip
    low, high = significant(float(min(last))), significant(float(max(last)))
    return f"{tip} ({low}–{high} over {counted(len(last), 'seed')})"


def _of_losses(curves: Seeds, window: int) -> Iterator[str]:
    """What the lines are, and where something is missing."""
    every = [each for seeds in curves.values() for each in seeds.values()]
    spacings = np.concatenate([np.diff(each[0]) for each in every])
    span = float(np.median(spacings)) * window if spacings.size else 0.0
    yield f"Moving average over {span:.0f} steps." if span > 1 else "Not smoothed."
    if any(len(seeds) > 1 for seeds in curves.values()):
        yield "Line: mean over the seeds; band: lowest to highest."
    gaps = list(_gaps(curves))
    if gaps:
        yield f"Loss not finite, a gap: {', '.join(gaps)}."
    early = list(_early(curves))
    if early:
        yield f"Ended early, then left out of the mean: {', '.join(early)}."


def _gaps(curves: Seeds) -> Iterator[str]:
    for head, seeds in curves.items():
        for seed, (steps, losses) in seeds.items():
            lost = steps[np.isnan(losses)]
            if lost.size == steps.size:
                yield f"{head} seed {seed} (everywhere)"
            elif lost.size:
                share = f"{lost.size} of {steps.size} entries"
                yield f"{head} seed {seed} ({share}, first at step {lost[0]:g})"


def _early(curves: Seeds) -> Iterator[str]:
    last = max(steps[-1] for seeds in curves.values() for steps, _ in seeds.values())
    for head, seeds in curves.items():
        for seed, (steps, _) in seeds.items():
            if steps[-1] < last:
                yield f"{head} seed {seed} at step {steps[-1]:g}"
