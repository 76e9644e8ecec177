"""What a reader of an ablation's table must know: sources, differences, cautions; in sentences."""

import re
from collections.abc import Mapping, Sequence

from contextbench.config.protocols import Protocol
from contextbench.papers.ablations import Ablation
from contextbench.papers.published import PublishedScore
from contextbench.records.comparability import device_name
from contextbench.records.runs import RunRecord
from contextbench.report.papers.runs import RowRuns
from contextbench.report.verdicts import draws_of
from contextbench.report.words import ABSENT, level_text
from contextbench.statistics.intervals import Ranking
from contextbench.statistics.methods import TRAININGS

UNCONFIRMED = "‡"


def notes_of(row: RowRuns) -> list[str]:
    """Why there is no score, what of the protocol is changed, what differs from the paper."""
    return [*row.missing, *_change(row), *row.variant.row.notes]


def _change(row: RowRuns) -> list[str]:
    changed = row.variant.changed
    if not changed or not row.runs:
        return []
    listed = "; ".join(f"{key} {now}, not {was}" for key, (was, now) in changed.items())
    return [
        f"Measured under a protocol of its own, {row.variant.protocol.name}: {listed}. This is "
        "what the table varies, so the row is compared all the same, on the same images."
    ]


def scores_of(column: str, ablation: Ablation) -> list[PublishedScore]:
    """The published scores of a column, row by row."""
    return [row.published[column] for row in ablation.rows if column in row.published]


def heading_of(column: str, ablation: Ablation) -> str:
    """Dataset, split, backbone, and the label where these do not tell."""
    found = scores_of(column, ablation)
    parts = [
        " ".join(_distinct([f"{score.dataset} {score.split}" for score in found])),
        " / ".join(_distinct([score.backbone for score in found])),
        ablation.columns[column] or "",
    ]
    return ", ".join(part for part in parts if part)


def source_of(column: str, heading: str, ablation: Ablation) -> str:
    """Where the scores of a column are printed, how sure they are, and what was noted of them."""
    found = scores_of(column, ablation)
    parts = [
        *_distinct([f"{score.source} ({score.status})" for score in found]),
        *_distinct([score.notes for score in found if score.notes]),
    ]
    files = ", ".join(_distinct([score.file for score in found]))
    return f"{heading} (`{files}`): {'; '.join(parts)}."


def legend_of(
    ablation: Ablation,
    protocol: Protocol,
    rows: Sequence[RowRuns],
    ranking: Ranking | None,
    headings: Mapping[str, str],
) -> list[str]:
    """How to read the table, a sentence or two for each thing."""
    unconfirmed = any(
        score.status == "unverified" and score.miou is not None
        for row in ablation.rows
        for score in row.published.values()
    )
    mark = f" {UNCONFIRMED}: not confirmed in a public source; look it up before quoting it."
    return [
        f"Published: {ablation.paper}. {ABSENT}: no number.{mark * unconfirmed}",
        _measurement(protocol, rows, ranking),
        *ablation.notes,
        *_settings(ablation, protocol, headings),
        "Absolute values of the two sides do not compare. In brackets on the published side, and "
        f"as Δ on the measured one: the difference to the row “{ablation.baseline}”. These "
        "differences are what stands side by side, each under its own data and recipe.",
        *_separation(ranking),
        *_mixtures([run for row in rows for run in row.runs.values()]),
        *(ranking.cautions if ranking else ()),
    ]


def _measurement(protocol: Protocol, rows: Sequence[RowRuns], ranking: Ranking | None) -> str:
    train = protocol.train
    text = (
        f"Measured: {protocol.dataset.name} {protocol.split()}, "
        f"{protocol.backbone.name}, {train.steps} steps of {train.batch} images (protocol "
        f"{protocol.name}); mean over seeds"
    )
    if ranking is None:
        return f"{text}. No row has scores."
    level = level_text(ranking.resampling.level)
    spread = ", standard deviation over seeds" if any(len(r.areas) > 1 for r in rows) else ""
    return f"{text} [{level} interval of the test set: {draws_of(ranking)}]{spread}."


def _settings(ablation: Ablation, protocol: Protocol, headings: Mapping[str, str]) -> list[str]:
    """What is not the same on the two sides; columns of which the same is true in one sentence."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for name, heading in headings.items():
        columns.setdefault(_different(scores_of(name, ablation), protocol), []).append(heading)
    return [
        f"{'; '.join(named)}: published and measured differ in {', '.join(different)}."
        for different, named in columns.items()
    ]


def _different(found: Sequence[PublishedScore], protocol: Protocol) -> tuple[str, ...]:
    """Which of data, split and backbone have other names in print than here; recipes always do."""
    same = {
        "data": all(_plain(protocol.dataset.name) in _plain(score.dataset) for score in found),
        "split": all(_plain(score.split) == _plain(protocol.split()) for score in found),
        "backbone": all(
            _plain(score.backbone).removesuffix("d8") == _plain(protocol.backbone.name)
            for score in found
        ),
    }
    return (*(name for name, alike in same.items() if not alike), "recipe")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _separation(ranking: Ranking | None) -> list[str]:
    if ranking is None or not ranking.pairs:
        return []
    return [
        "Separated: whether the row differs from the baseline over other trainings and other "
        f"images, corrected for all pairs of the table (Holm); {ABSENT}: fewer than {TRAININGS} "
        "trainings of either. The interval of the difference is over both."
    ]


def _mixtures(runs: Sequence[RunRecord]) -> list[str]:
    """What should be one for all rows and is not."""
    formats = {", ".join(run.precision.values()) for run in runs}
    devices = {device_name(run.environment) for run in runs}
    named = {"number formats": formats, "devices": devices}
    return [
        f"Runs have different {what}: {'; '.join(sorted(values))}."
        for what, values in named.items()
        if len(values) > 1
    ]


def _distinct(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))
