"""What would be enough to tell heads apart, and heads over several protocols: from records."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextbench.config.files import ConfigError, nearest
from contextbench.records.stored import RecordError
from contextbench.report.collection import Collection, collect
from contextbench.report.verdicts import bottleneck_sentence
from contextbench.report.words import counted, plain
from contextbench.statistics.aggregate import Aggregate, aggregate, measured
from contextbench.statistics.draws import Resampling
from contextbench.statistics.intervals import Ranking, rank
from contextbench.statistics.methods import POWER
from contextbench.statistics.needed import Needed, needed


@dataclass(frozen=True)
class PowerPlan:
    """What would show a difference between every two heads."""

    difference: float  # a fraction
    ranking: Ranking
    pairs: Sequence[Needed]

    @property
    def sentences(self) -> list[str]:
        """The plan in a few sentences, the last on what it rests on."""
        points = f"{100 * self.difference:g} points"
        seeds = [each.seeds.n for each in self.ranking.heads]
        pairs = counted(len(self.ranking.pairs), "pair")
        trained = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
        return [
            f"To show a true difference of {points} with a chance of {100 * POWER:g} %, corrected "
            f"for {pairs} (Holm): {_every(self.pairs, self.ranking)}",
            bottleneck_sentence(self.ranking),
            f"Computed from deviations over {trained} trainings a head and errors over "
            f"{self.ranking.images} images, as measured: those of three trainings are uncertain by "
            "a factor of about two.",
        ]

    def as_dict(self) -> dict[str, Any]:
        """For programs; null: no number is enough."""
        return {
            "difference": self.difference,
            "power": POWER,
            "level": self.ranking.resampling.level,
            "images": self.ranking.images,
            "pairs": [
                {"seeds_and_images" if key == "both" else key: value for key, value in pair.items()}
                for pair in map(plain, self.pairs)
            ],
            "notes": self.sentences,
        }


def power_plan(collection: Collection, difference: float, heads: Sequence[str] = ()) -> PowerPlan:
    """What would show a `difference` (a fraction) between heads, all without `heads`.

    Raises `ConfigError` for a difference that is none and for heads that are not there, and
    `RecordError` where trainings or counts per image are too few to know variances.
    """
    if not 0 < difference < 1:
        raise ConfigError(
            f"--difference {100 * difference:g}: points of mIoU between 0 and 100 are allowed"
        )
    areas = collection.areas
    for head in heads:
        if head not in areas:
            raise ConfigError(f"head {head!r} has no counts per image; {nearest(head, areas)}")
    chosen = list(dict.fromkeys(heads)) or list(areas)
    if len(chosen) < 2:
        raise ConfigError("a difference is one between two heads: name at least two")
    ranking = rank({head: areas[head] for head in chosen}, sampling=collection.sampling)
    try:
        return PowerPlan(difference, ranking, needed(ranking, difference))
    except ValueError as error:
        raise RecordError(str(error)) from None


def _every(pairs: Sequence[Needed], ranking: Ranking) -> str:
    """What is enough for all pairs at once."""
    seeds = None if any(p.seeds is None for p in pairs) else max(p.seeds or 0 for p in pairs)
    images = None if any(p.images is None for p in pairs) else max(p.images or 0 for p in pairs)
    both = max(pairs, key=lambda each: each.both[1]).both
    parts = [
        f"{seeds} seeds a head with these {ranking.images} images"
        if seeds
        else f"no number of seeds with these {ranking.images} images",
        f"{images} images with these seeds" if images else "no number of images with these seeds",
        f"or {both[0]} seeds and {both[1]} images",
    ]
    return f"{'; '.join(parts)}."


def aggregate_of(
    folders: Sequence[Path], *, baseline: str = "fcn", resampling: Resampling = Resampling()
) -> Aggregate:
    """Heads over the protocols of several folders.

    Raises `RecordError` for fewer than two folders, two of one protocol, and as `aggregate` does.
    """
    collections = {folder: collect(folder) for folder in folders}
    fingerprints: dict[str, Path] = {}
    for folder, collection in collections.items():
        fingerprint = collection.runs[0].shared_fingerprint
        if fingerprint in fingerprints:
            raise RecordError(
                f"{folder} and {fingerprints[fingerprint]} are of the same protocol, which would "
                "count twice"
            )
        fingerprints[fingerprint] = folder
    names = [collection.runs[0].protocol_name for collection in collections.values()]
    protocols = []
    for (folder, collection), name in zip(collections.items(), names, strict=True):
        if not collection.areas:
            raise RecordError(f"{folder}: no run has counts per image")
        protocols.append(
            measured(
                name if names.count(name) == 1 else str(folder),
                collection.areas,
                sampling=collection.sampling,
                resampling=resampling,
            )
        )
    return aggregate(protocols, baseline, resampling)


def aggregate_sentences(found: Aggregate) -> list[str]:
    """What the numbers are, one sentence each."""
    level = f"{100 * found.resampling.level:g} %"
    what = "other trainings and images" if found.trainings > 1 else "other images, same models,"
    sentences = [
        f"Mean over {len(found.protocols)} protocols: {', '.join(found.protocols)}. Ranks and "
        "differences are taken within each; scores of different protocols are never averaged.",
        f"Brackets: {level} interval for {what} of these protocols. Another protocol may order "
        "heads otherwise.",
    ]
    if found.trainings == 1:
        sentences.append(
            "Some head was trained once: nothing is said of heads, only of these trained models, "
            "and differences have no interval."
        )
    elif found.trainings < 3:
        sentences.append("Some head was trained twice: intervals, but no p-values.")
    if found.left_out:
        sentences.append(f"Not in every protocol, left out: {', '.join(found.left_out)}.")
    return sentences


def aggregate_dict(found: Aggregate) -> dict[str, Any]:
    """For programs: base units, null where nothing is known."""
    content: dict[str, Any] = {
        "protocols": found.protocols,
        "baseline": found.baseline,
        "level": found.resampling.level,
        "heads": [
            {
                "head": each.head,
                "mean_rank": each.rank.estimate,
                "mean_rank_low": each.rank.low,
                "mean_rank_high": each.rank.high,
                "ranks": dict(zip(found.protocols, each.ranks, strict=True)),
                "mean_difference": each.difference.estimate,
                "mean_difference_low": each.difference.low,
                "mean_difference_high": each.difference.high,
                "holm_p_value": each.holm_p_value,
            }
            for each in found.heads
        ],
        "notes": aggregate_sentences(found),
    }
    return {key: plain(value) for key, value in content.items()}
