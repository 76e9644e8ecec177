"""Made-up trainings, images and videos whose truth is known, and what the product says of them.

Axes: R experiments, H heads, S trainings, n images, K classes.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from contextbench.config.sampling import INDEPENDENT, Sampling
from contextbench.statistics import student
from contextbench.statistics.draws import Resampling
from contextbench.statistics.groups import holm
from contextbench.statistics.intervals import rank_counts
from contextbench.statistics.methods import degrees

HEADS = 6
DEVIATIONS = {  # of a training, in points, of each head
    "committed": (4.7, 0.1, 0.8, 0.5, 1.2, 1.5),
    "equal": (1.0,) * HEADS,
    "half": (0.5,) * HEADS,
    "small": (0.1,) * HEADS,
    "none": (0.0,) * HEADS,
    "three of 2, three of 0.1": (2.0, 2.0, 2.0, 0.1, 0.1, 0.1),
}
IMAGE_ERROR = 0.15  # points, of a difference of two heads over all images
LEVEL = 0.95


def separations(deviations, seeds, *, images=96, experiments=4000, seed=0, shift=0.0):
    """Shares of comparisons of six heads in which any pair is separated, by rule.

    All are equal but for the first, which is better by `shift` points: then only pairs of the
    others count as false, and `found` is the share of the first head's pairs that are separated.
    `ours`: `methods.Parts`. `welch`: without what it adds for few seeds. `images`: image draws
    alone, as for trained models.
    """
    generator = np.random.default_rng(seed)
    spread = np.array(deviations)
    any_false = dict.fromkeys(("ours", "welch", "images"), 0)
    found = dict.fromkeys(any_false, 0.0)
    for _ in range(experiments // 500):
        parts = _experiments(generator, spread, seeds, images, 500, shift)
        for rule, p in _p_values(*parts, images, seeds).items():
            corrected = np.array([holm(row) for row in p.tolist()])
            apart = corrected < 1 - LEVEL
            false = apart[:, HEADS - 1 :] if shift else apart
            any_false[rule] += int(false.any(axis=1).sum())
            found[rule] += float(apart[:, : HEADS - 1].mean()) * 500
    total = 500 * (experiments // 500)
    return {rule: (any_false[rule] / total, found[rule] / total) for rule in any_false}


def _experiments(generator, spread, seeds, images, count, shift):
    """Differences (R, pairs), variances of the means (2, R, pairs) and over images (R, pairs)."""
    shape = (count, HEADS, seeds)
    trained = generator.normal(size=shape) * spread[:, None]
    effects = generator.normal(size=(count, HEADS, images)) * IMAGE_ERROR * math.sqrt(images / 2)
    scores = trained.mean(axis=2) + effects.mean(axis=2)
    scores[:, 0] += shift
    variances = trained.var(axis=2, ddof=1) / seeds if seeds > 1 else np.full(shape[:2], np.nan)
    one, other = np.array(list(itertools.combinations(range(HEADS), 2))).T
    paired = (effects[:, one] - effects[:, other]).var(axis=2, ddof=1) / images
    return (
        scores[:, one] - scores[:, other],
        np.stack([variances[:, one], variances[:, other]]),
        paired,
    )


def _p_values(difference, trainings, paired, images, seeds):
    yields = {"images": student.two_sided(difference / np.sqrt(paired), images - 1)}
    if seeds == 1:
        return {**yields, "ours": np.ones_like(paired), "welch": np.ones_like(paired)}
    total = trainings.sum(axis=0) + paired
    t = difference / np.sqrt(total)
    welch = total**2 / ((trainings**2).sum(axis=0) / (seeds - 1) + paired**2 / (images - 1))
    ours = degrees(trainings, np.full((2, 1, 1), seeds), paired[None], np.array([[[images]]]))
    return {
        **yields,
        "ours": student.two_sided(t, ours),
        "welch": student.two_sided(t, welch),
    }


@dataclass(frozen=True)
class World:
    """Images whose classes are as rare as in real splits; two heads, the second a little better.

    Class k is in an image with a chance that falls as a power of k from `common` to `rare`. Areas
    are gamma distributed; an image's difficulty is Student's t of three degrees, or lognormal.
    Missed pixels go to classes of the image and, with 2 / K a class, to one that is not there.
    """

    classes: int
    images: int
    tail: str = "t3"
    common: float = 0.99
    rare: float = 0.06

    def counts(self, generator):
        """Counts (1, 3, n, K) of each head."""
        n, k = self.images, self.classes
        chance = self.common * (np.arange(k) + 1.0) ** self._exponent
        there = generator.random((n, k)) < chance
        there[np.arange(n), 0] |= ~there.any(axis=1)
        labelled = there * np.ceil(generator.gamma(0.8, 1500, (n, k)))
        hard = self._difficulty(generator)[:, None]
        effect = 0.08 * np.sin(np.arange(k))  # of the class
        heads = {}
        for head, gain in (("a", 0.0), ("b", 0.01)):
            own = 0.05 * generator.standard_normal((n, k))
            right = np.clip(0.75 + gain + hard + effect + own, 0.02, 0.99)
            correct = np.floor(labelled * right)
            predicted = correct + self._taken(generator, there, labelled - correct)
            heads[head] = np.stack([correct, predicted, labelled])[None]
        return heads

    @property
    def _exponent(self):
        return math.log(self.rare / self.common) / math.log(self.classes)

    def _difficulty(self, generator):
        if self.tail == "t3":
            return -0.06 * np.abs(generator.standard_t(3, self.images))
        return -0.06 * generator.lognormal(0, 1, self.images)

    def _taken(self, generator, there, missed):
        """(n, K): what each class is given of the missed pixels of its image, as whole pixels."""
        strange = ~there & (generator.random(there.shape) < 2 / self.classes)
        weight = there * generator.random(there.shape) + 0.05 * strange
        share = weight / weight.sum(axis=1, keepdims=True)
        taken = np.floor(missed.sum(axis=1, keepdims=True) * share)
        taken[:, 0] += missed.sum(axis=1) - taken.sum(axis=1)
        return taken


def coverage(world, *, experiments=300, resamples=500, seed=0):
    """Shares of intervals that hold the expected score, and the expected difference, of n images.

    Those expectations are means over all experiments. Also the mean of them less the score of 40
    times as many images, in points.
    """
    generator = np.random.default_rng(seed)
    names = [str(i) for i in range(world.images)]
    scores, differences = [], []
    for i in range(experiments):
        counts = world.counts(generator)
        ranking = rank_counts(
            counts, names, range(world.classes), resampling=Resampling(resamples, LEVEL, i)
        )
        (pair,) = ranking.pairs
        sign = 1 if pair.first == "b" else -1
        difference = sorted(sign * each for each in pair.models.difference[1:])
        scores.append(ranking.heads[0 if pair.first == "b" else 1].miou)
        differences.append((sign * pair.models.difference.estimate, *difference))
    long_run = _long_run(world, generator)
    return {
        "score": _held(np.array(scores)),
        "difference": _held(np.array(differences)),
        "bias": 100 * (float(np.mean([each.estimate for each in scores])) - long_run),
    }


def _held(intervals):
    truth = intervals[:, 0].mean()
    return float(((intervals[:, 1] <= truth) & (truth <= intervals[:, 2])).mean())


def _long_run(world, generator):
    """mIoU of the second head over the sums of very many images."""
    total = sum(world.counts(generator)["b"].sum(axis=2)[0] for _ in range(200))
    correct, predicted, labelled = total
    known = labelled > 0
    return float((correct[known] / (predicted + labelled - correct)[known]).mean())


def video_coverage(frames, memory, *, experiments=300, resamples=300, seed=0, independent=False):
    """Of the intervals of a difference with ends, the share that holds the truth, 0; the share that
    has ends; the median block.

    The difference of frame i is `memory` times that of the frame before, and new noise.
    """
    generator = np.random.default_rng(seed)
    sampling = INDEPENDENT if independent else Sampling(frames="ordered")
    names = [f"{i:05}" for i in range(frames)]
    held, ends, blocks = 0, 0, []
    for i in range(experiments):
        noise = generator.normal(size=frames) * math.sqrt(1 - memory**2)
        noise[0] /= math.sqrt(1 - memory**2)
        for j in range(1, frames):
            noise[j] += memory * noise[j - 1]
        counts = {head: _values(values) for head, values in (("a", noise), ("b", 0 * noise))}
        ranking = rank_counts(
            counts, names, [0], sampling=sampling, resampling=Resampling(resamples, LEVEL, i),
            bounds=(-math.inf, math.inf),
        )  # fmt: skip
        low, high = ranking.pairs[0].models.difference[1:]
        ends += not math.isnan(low)
        held += low <= 0 <= high
        blocks.append(ranking.block)
    return held / max(ends, 1), ends / experiments, float(np.median(blocks))


def _values(values):
    """Counts (1, 3, n, 1) whose score is the mean of the values, as in `statistics.values`."""
    return np.stack([values, values, np.ones_like(values)])[None, ..., None]
