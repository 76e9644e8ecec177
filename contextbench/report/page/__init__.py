"""The report page: one HTML file that needs nothing else, from the records of comparisons.

Everything is in the page as it is written: tables, plots as SVG, pictures as data. Scripts add
sorting, filtering, choices and tooltips to it; without them it reads the same.
Text from data is escaped by the templates, which build all HTML and SVG; scripts only set text.
"""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from contextbench import __version__
from contextbench.records.examples import Examples, read_examples
from contextbench.report import words
from contextbench.report.collection import Collection, collect
from contextbench.report.examples import DISPUTE_CAPTION, PREDICTION_CAPTION
from contextbench.report.figures.style import Picture
from contextbench.report.figures.tuning import tuning_picture
from contextbench.report.heat import class_heat, group_heat
from contextbench.report.page import marks as svg
from contextbench.report.page.details import details
from contextbench.report.page.gallery import gallery
from contextbench.report.page.marks import SIZES, Mark, marks_of
from contextbench.report.page.provenance import provenance
from contextbench.report.plots import Axis, Tradeoff
from contextbench.report.tables.comparison import all_scores
from contextbench.report.tradeoffs import (
    COSTS,
    is_logarithmic,
    label_of,
    plottable,
    sentences,
    tradeoff_of,
)
from contextbench.report.training import losses_of, watched_of
from contextbench.report.tuning import budget_fact, tuned_heads, tuned_notes
from contextbench.report.verdicts import draws_of, headline
from contextbench.statistics.intervals import Interval
from contextbench.system.files import write_text

SCRIPTS = ("tips.js", "tables.js", "heads.js", "choices.js", "page.js")


class Section(NamedTuple):
    """A part of a comparison: its title, and the template that sets its content."""

    title: str
    template: str
    content: Any


@dataclass(frozen=True)
class Standing:
    """A head in the ranking."""

    mark: Mark
    row: Mapping[Any, Any]  # of the comparison's table
    miou: Interval
    seeds: Sequence[float]  # their scores, where there are several
    difference: Interval  # to the best

    @property
    def tip(self) -> str:
        lines = [self.mark.name, f"mIoU {words.percent(self.miou.estimate)} %"]
        lines[1] += f" ({words.between(self.miou)})"
        if self.seeds:
            lines.append(f"seeds {', '.join(map(words.percent, self.seeds))}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Standings:
    """The heads that have a score, best first, and those that have none."""

    ranked: Sequence[Standing]
    unranked: Sequence[tuple[Mark, str]]  # with the reason

    @cached_property
    def axis(self) -> Axis:
        """In percent of its width."""
        values = [v for each in self.ranked for v in (*each.miou, *each.seeds)]
        return Axis.over((100 * value for value in values), 0, 100, count=5)


@dataclass(frozen=True)
class CostPlots:
    """All pictures of one cost."""

    name: str
    label: str
    logarithmic: bool  # which of the scales is shown at first
    pictures: Sequence[Tradeoff]
    caption: str


@dataclass(frozen=True)
class Comparison:
    """One comparison of the page."""

    id: str
    collection: Collection
    examples: Examples | None

    @cached_property
    def marks(self) -> dict[str, Mark]:
        """Looks of the heads, in the order of the table."""
        return marks_of(str(head) for head in self.collection.table["head"])

    @property
    def facts(self) -> list[str]:
        """What was compared, a few words each."""
        runs, images = self.collection.runs, self.collection.images
        return [
            words.counted(len({run.head_name for run in runs}), "head"),
            words.counted(len({run.seed for run in runs}), "seed"),
            *budget_fact(runs),
            *([words.counted(images, "image")] if images else []),
            words.counted(len(self.collection.labels.classes), "class"),
            *dict.fromkeys(str(run.environment.get("device") or "unknown device") for run in runs),
        ]

    @property
    def headline(self) -> list[str]:
        return headline(self.collection.table, self.collection.ranking)

    @cached_property
    def sections(self) -> dict[str, Section]:
        """All that there is to show, by the ending of its id."""
        facts, ranking, examples = self.collection, self.collection.ranking, self.examples
        histories, watched = facts.histories, facts.watched
        losses = losses_of({name: histories[name] for name in self.marks if name in histories})
        scores = watched_of({name: watched[name] for name in self.marks if name in watched})
        shown = gallery(examples, facts.labels, self.marks)
        several = ranking if ranking and len(ranking.heads) > 1 else None
        costs = [self._cost(cost) for cost in COSTS if len(plottable(facts.table, cost))]
        sections = {
            "ranking": Section("Ranking", "ranking", self._standings()),
            "table": Section("All numbers", "table", all_scores(facts.table)),
            "costs": Section("Accuracy and cost", "costs", costs),
            "groups": Section("Groups of classes", "heat", group_heat(facts)),
            "classes": Section("Classes", "heat", class_heat(facts.per_class)),
            "stability": Section("Rank stability", "stability", several),
            "losses": Section("Learning curves", "curves", losses),
            "tuning": Section("Tuning", "tuning", self._tuning()),
            "watched": Section("Scores while training", "curves", scores),
            **{each.id: Section(each.title, "details", each) for each in details(facts)},
            "examples": Section("Examples", "examples", shown and shown.examples and shown),
            "attention": Section("Attention", "attention", shown and shown.attention),
            "cautions": Section("Cautions", "cautions", facts.cautions),
            "protocol": Section("Protocol and provenance", "provenance", provenance(facts)),
        }
        return {name: section for name, section in sections.items() if section.content}

    @cached_property
    def alike(self) -> dict[str, str]:
        """Of each head the numbers of those that the split cannot separate from it, for scripts."""
        ranking, marks = self.collection.ranking, self.marks.values()
        alike = {one: ranking.not_separated(one) if ranking else [] for one in self.marks}
        return {
            one: " ".join(str(mark.index) for mark in marks if mark.name in others)
            for one, others in alike.items()
        }

    def _standings(self) -> Standings:
        rows = self.collection.table.to_dict("records")
        return Standings(
            [self._standing(row) for row in rows if not math.isnan(row["miou"])],
            [
                (self.marks[row["head"]], row["note"] or "not evaluated")
                for row in rows
                if math.isnan(row["miou"])
            ],
        )

    def _standing(self, row: Mapping[Any, Any]) -> Standing:
        ranking = self.collection.ranking
        ranked = ranking.find(row["head"]) if ranking else None
        gap = (row["difference_to_best"], row["difference_low"], row["difference_high"])
        return Standing(
            mark=self.marks[row["head"]],
            row=row,
            miou=Interval(row["miou"], row["miou_low"], row["miou_high"]),
            seeds=ranked.seeds.values if ranked and len(ranked.seeds.values) > 1 else (),
            difference=Interval(*gap),
        )

    def _tuning(self) -> tuple[list[str], Picture] | None:
        """Sentences, and scores against the tuned values; None without."""
        tuned = tuned_heads(self.collection.runs)
        heads = {name: tuned[name].head for name in self.marks if name in tuned}
        if not heads:
            return None
        title = f"Tuning: {self.collection.subject}"
        picture = tuning_picture(next(iter(tuned.values())), heads, title)
        return (tuned_notes(self.collection.runs), picture) if picture else None

    def _cost(self, cost: str) -> CostPlots:
        facts = self.collection
        table, ranking = facts.table, facts.ranking
        scales = (False, True) if plottable(table, cost)[cost].min() > 0 else (False,)
        pictures = [
            tradeoff_of(
                table, cost, size, ranking=ranking, profile=facts.profile, logarithmic=logarithmic
            )
            for logarithmic in scales
            for size in SIZES
        ]
        caption = " ".join(sentences(table, [cost], ranking))
        return CostPlots(cost, label_of(cost), is_logarithmic(table, cost), pictures, caption)


def write_page(folders: Sequence[Path], out: Path, view: str | None = None) -> Path:
    """Write the page of one comparison a folder to the file `out`; return it.

    All are seen in `view`, each in its first one unless named.
    Raises `RecordError` for folders without records that can be used, `MixedProtocolsError` for a
    folder with several protocols, and `OutputError` when the file cannot be written.
    """
    write_text(out, render_page([_part(folder, view) for folder in folders]))
    return out


def _part(folder: Path, view: str | None) -> tuple[Collection, Examples | None]:
    collection = collect(folder, view)
    return collection, read_examples(folder, len(collection.labels.classes))


def render_page(parts: Sequence[tuple[Collection, Examples | None]]) -> str:
    """The page as HTML: a section for each comparison with its examples."""
    comparisons = [
        Comparison(f"comparison-{number}", *part) for number, part in enumerate(parts, start=1)
    ]
    script = "\n".join(["'use strict';", *map(_template, SCRIPTS)])
    template = _environment().get_template("page.html")
    return template.render(
        comparisons=comparisons,
        title=", ".join(dict.fromkeys(each.collection.subject for each in comparisons)),
        version=__version__,
        style=_template("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    captions = (PREDICTION_CAPTION, DISPUTE_CAPTION)
    environment.globals.update(
        words=words, svg=svg, sizes=SIZES, captions=captions, draws_of=draws_of
    )
    environment.tests["nan"] = math.isnan
    return environment


def _template(name: str) -> str:
    return (files("contextbench.report") / "templates" / name).read_text(encoding="utf-8")
