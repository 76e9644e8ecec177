"""Heads over several protocols: mean rank, and mean difference to a baseline. No torch.

Scores of different datasets are never averaged: a rank has no unit, and a difference is taken
within a protocol. The interval is for other trainings and images of *these* protocols; protocols
are not a sample from which another one could be foretold.

Difference: the mean over P protocols of differences d_p with variance V_p (`methods`) has the
variance sum V_p / P^2, tested by Student's t with Satterthwaite's degrees of freedom.
Rank: in each draw of the images every head's score moves as its draw does, and by s / sqrt(S) times
a value drawn from Student's distribution of S - 1 degrees of freedom for its S trainings; heads are
ranked within each protocol, ranks averaged, and percentiles taken.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from contextbench.config.sampling import INDEPENDENT, Sampling
from contextbench.records.counts import Areas
from contextbench.records.stored import RecordError
from contextbench.statistics import student
from contextbench.statistics.counts import aligned, trained_elsewhere
from contextbench.statistics.draws import FEWEST_UNITS, FloatArray, Resampling
from contextbench.statistics.groups import holm
from contextbench.statistics.intervals import (
    Interval,
    SeedSpread,
    draws_of,
    resampled,
    whole_split,
)
from contextbench.statistics.methods import TRAININGS, degrees


@dataclass(frozen=True)
class Measured:
    """The heads of one protocol, with the draws of its images."""

    protocol: str
    seeds: Mapping[str, SeedSpread]
    sampled: Mapping[str, FloatArray]  # head -> (draws,) mean mIoU of its seeds
    units: int


@dataclass(frozen=True)
class OverProtocols:
    """One head over all protocols."""

    head: str
    rank: Interval  # mean over protocols, 1 is best; no ends: not known
    ranks: tuple[float, ...]  # in each protocol, by mean mIoU; equal ones share theirs
    difference: Interval  # mean difference in mIoU to the baseline
    p_value: float  # two-sided, of that difference; NaN: no verdict
    holm_p_value: float  # corrected for all heads but the baseline


@dataclass(frozen=True)
class Aggregate:
    """All heads that every protocol has, by mean rank."""

    heads: tuple[OverProtocols, ...]
    protocols: tuple[str, ...]
    baseline: str
    left_out: tuple[str, ...]  # heads that some protocol lacks
    trainings: int  # the fewest of any head in any protocol
    resampling: Resampling


def measured(
    protocol: str,
    areas: Mapping[str, Mapping[int, Areas]],
    *,
    sampling: Sampling = INDEPENDENT,
    resampling: Resampling = Resampling(),
) -> Measured:
    """Heads of one protocol; arguments and errors as of `intervals.rank`."""
    counts = aligned(areas, None)
    names = sorted(next(iter(next(iter(areas.values())).values())).names)
    draws = draws_of(counts, names, sampling, resampling)
    elsewhere = trained_elsewhere(areas)
    seeds = {
        head: SeedSpread(whole_split(stacked), head in elsewhere)
        for head, stacked in counts.items()
    }
    return Measured(protocol, seeds, resampled(counts, draws)[0], draws.units)


def aggregate(
    protocols: Sequence[Measured], baseline: str, resampling: Resampling = Resampling()
) -> Aggregate:
    """Rank the heads that all protocols have.

    Raises `RecordError` for fewer than two protocols or such heads, a baseline that is none of
    them, and a head without a score.
    """
    if len(protocols) < 2:
        raise RecordError("results of at least two protocols are needed, each in its own folder")
    shared = [h for h in protocols[0].seeds if all(h in each.seeds for each in protocols)]
    if len(shared) < 2:
        raise RecordError("fewer than two heads have scores in every protocol")
    if baseline not in shared:
        raise RecordError(
            f"baseline {baseline!r} has no scores in every protocol; these have: "
            f"{', '.join(shared)}"
        )
    ranks = np.stack([_ranks(_means(each, shared)) for each in protocols])  # (P, heads)
    drawn = _drawn_ranks(protocols, shared, resampling)
    others = [head for head in shared if head != baseline]
    tests = {head: _difference(protocols, head, baseline, resampling.level) for head in others}
    known = [head for head in others if not math.isnan(tests[head][1])]
    corrected = dict(zip(known, holm([tests[head][1] for head in known]), strict=True))
    heads = []
    for i, head in enumerate(shared):
        difference, p = tests.get(head, (Interval(0.0, 0.0, 0.0), math.nan))
        mean = float(ranks[:, i].mean())
        heads.append(
            OverProtocols(
                head,
                _around(mean, drawn[:, i], protocols, resampling.level),
                tuple(ranks[:, i].tolist()),
                difference,
                p,
                corrected.get(head, math.nan),
            )
        )
    every = {head for each in protocols for head in each.seeds}
    return Aggregate(
        tuple(sorted(heads, key=lambda each: (each.rank.estimate, each.head))),
        tuple(each.protocol for each in protocols),
        baseline,
        tuple(sorted(every - set(shared))),
        min(each.seeds[head].n for each in protocols for head in shared),
        resampling,
    )


def _means(protocol: Measured, heads: Sequence[str]) -> FloatArray:
    means = np.array([fmean(protocol.seeds[head].values) for head in heads])
    if np.isnan(means).any():
        lacking = heads[int(np.flatnonzero(np.isnan(means))[0])]
        raise RecordError(f"{protocol.protocol}: {lacking} has no score to be ranked by")
    return means


def _ranks(scores: FloatArray) -> FloatArray:
    """1 for the highest along the last axis; equal scores share the mean of their places."""
    better = (scores[..., None, :] > scores[..., :, None]).sum(axis=-1)
    equal = (scores[..., None, :] == scores[..., :, None]).sum(axis=-1)  # itself included
    places: FloatArray = better + (equal + 1) / 2
    return places


def _drawn_ranks(
    protocols: Sequence[Measured], heads: Sequence[str], resampling: Resampling
) -> FloatArray:
    """(draws, heads): mean rank in each draw."""
    generator = np.random.default_rng(resampling.seed)
    total = np.zeros((resampling.resamples, len(heads)))
    for protocol in protocols:
        drawn = np.stack([_moved(protocol, head, generator) for head in heads], axis=1)
        total += _ranks(drawn)
    return total / len(protocols)


def _moved(protocol: Measured, head: str, generator: np.random.Generator) -> FloatArray:
    """(draws,): scores of a head as other images and, if known, other trainings could give."""
    spread, sampled = protocol.seeds[head], protocol.sampled[head]
    wider = math.sqrt(protocol.units / max(protocol.units - 1, 1))
    scores: FloatArray = fmean(spread.values) + wider * (sampled - np.nanmean(sampled))
    if spread.n > 1:
        trained = generator.standard_t(spread.n - 1, len(sampled))
        scores = scores + spread.standard_error * trained
    return scores


def _difference(
    protocols: Sequence[Measured], head: str, baseline: str, level: float
) -> tuple[Interval, float]:
    """Mean difference to the baseline, and its p-value; NaN where they are not known."""
    pairs = [(each, each.seeds[head], each.seeds[baseline]) for each in protocols]
    estimate = fmean(fmean(own.values) - fmean(other.values) for _, own, other in pairs)
    unknown = Interval(estimate, math.nan, math.nan), math.nan
    trainings = min(min(own.n, other.n) for _, own, other in pairs)
    if trainings < 2 or min(each.units for each in protocols) < FEWEST_UNITS:
        return unknown
    spreads = [spread for _, own, other in pairs for spread in (own, other)]
    images = np.array(
        [
            np.nanvar(each.sampled[head] - each.sampled[baseline], ddof=1)
            * each.units / (each.units - 1)
            for each in protocols
        ]
    )  # fmt: skip
    means = np.array([spread.standard_error**2 for spread in spreads])
    variance = float(means.sum() + images.sum()) / len(protocols) ** 2
    if math.isnan(variance) or variance == 0:
        return unknown
    df = float(
        degrees(
            means,
            np.array([spread.n for spread in spreads], dtype=np.float64),
            images,
            np.array([each.units for each in protocols], dtype=np.float64),
        )
    )
    error = math.sqrt(variance)
    reach = student.quantile((1 + level) / 2, df) * error
    p = float(student.two_sided(estimate / error, df)) if trainings >= TRAININGS else math.nan
    return Interval(estimate, estimate - reach, estimate + reach), p


def _around(
    mean: float, drawn: FloatArray, protocols: Sequence[Measured], level: float
) -> Interval:
    """Percentiles of drawn mean ranks, with the estimate between them."""
    if min(each.units for each in protocols) < FEWEST_UNITS:
        return Interval(mean, math.nan, math.nan)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, min(float(low), mean), max(float(high), mean))
