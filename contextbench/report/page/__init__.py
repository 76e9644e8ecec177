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
from typing import Any

import jinja2

from contextbench import __version__
from contextbench.records.examples import Examples, read_examples
from contextbench.report import words
from contextbench.report.collection import Collection, collect
from contextbench.report.figures.tuning import tuning_picture
from contextbench.report.figures.watched import Picture, watched_picture
from contextbench.report.heat import Heat, class_heat, group_heat
from contextbench.report.losses import Losses, losses_of
from contextbench.report.page import marks as svg
from contextbench.report.page.details import Section, sections
from contextbench.report.page.gallery import Gallery, gallery
from contextbench.report.page.marks import SIZES, Mark, marks_of
from contextbench.report.page.provenance import Provenance, provenance
from contextbench.report.page.ranking import headline
from contextbench.report.plots import Axis, Tradeoff
from contextbench.report.rankings import draws_of, not_separated, statistics_of
from contextbench.report.tables.comparison import all_scores
from contextbench.report.tables.sheet import Sheet
from contextbench.report.tradeoffs import (
    COSTS,
    is_logarithmic,
    label_of,
    plottable,
    sentences,
    tradeoff_of,
)
from contextbench.report.tuning import budget_fact, tuned_heads, tuned_notes
from contextbench.statistics.intervals import Interval
from contextbench.system.files import write_text

SCRIPTS = ("tips.js", "tables.js", "heads.js", "choices.js", "page.js")


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
class CostPlots:
    """All pictures of one cost."""

    name: str
    label: str
    logarithmic: bool  # which of the scales is shown at first
    pictures: Sequence[Tradeoff]
    caption: str


@dataclass(frozen=True)
class Comparison:
    """One section of the page."""

    id: str
    collection: Collection
    examples: Examples | None

    @cached_property
    def marks(self) -> dict[str, Mark]:
        """Looks of the heads, in the order of the table."""
        return marks_of(str(head) for head in self.collection.table["head"])

    @property
    def title(self) -> str:
        return self.collection.subject

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
    def standings(self) -> list[Standing]:
        """The heads that have a score, best first."""
        return [self._standing(row) for row in self._rows() if not math.isnan(row["miou"])]

    @cached_property
    def axis(self) -> Axis:
        """Of the ranking, in percent of its width."""
        values = [v for each in self.standings for v in (*each.miou, *each.seeds)]
        return Axis.over((100 * value for value in values), 0, 100, count=5)

    @property
    def unranked(self) -> list[tuple[Mark, str]]:
        """Heads without a score, and why."""
        missing = [row for row in self._rows() if math.isnan(row["miou"])]
        return [(self.marks[row["head"]], row["note"] or "not evaluated") for row in missing]

    @cached_property
    def scores(self) -> Sheet:
        """All numbers."""
        return all_scores(self.collection.table)

    @cached_property
    def statuses(self) -> list[str]:
        """How heads ended that have failed."""
        status = self.collection.table["status"]
        return ["" if each == "done" else words.status_text(each) for each in status]

    @cached_property
    def costs(self) -> list[CostPlots]:
        """The trade-off of every cost that some head with a score has."""
        table = self.collection.table
        return [self._cost(cost) for cost in COSTS if len(plottable(table, cost))]

    @cached_property
    def classes(self) -> Heat | None:
        return class_heat(self.collection.per_class)

    @cached_property
    def groups(self) -> Heat | None:
        return group_heat(self.collection)

    @cached_property
    def losses(self) -> Losses | None:
        histories = self.collection.histories
        return losses_of({name: histories[name] for name in self.marks if name in histories})

    @cached_property
    def watched(self) -> Picture | None:
        title = f"mIoU while training: {self.collection.subject}"
        return watched_picture(self.collection.watched, title)

    @cached_property
    def details(self) -> list[Section]:
        """What the view counted beside the pixels of classes."""
        return sections(self.collection)

    @cached_property
    def tuning(self) -> Picture | None:
        tuned = tuned_heads(self.collection.runs)
        if not tuned:
            return None
        heads = {name: tuned[name].head for name in self.marks if name in tuned}
        title = f"Tuning: {self.collection.subject}"
        return tuning_picture(next(iter(tuned.values())), heads, title)

    @property
    def tuned_notes(self) -> list[str]:
        return tuned_notes(self.collection.runs)

    @cached_property
    def gallery(self) -> Gallery | None:
        return gallery(self.examples, self.collection.labels, self.marks)

    @cached_property
    def provenance(self) -> Provenance:
        return provenance(self.collection)

    @property
    def method(self) -> str:
        """How intervals were made."""
        ranking = self.collection.ranking
        return draws_of(ranking) if ranking else ""

    @cached_property
    def alike(self) -> dict[str, str]:
        """Of each head the numbers of those that the split cannot separate from it, for scripts."""
        ranking, marks = self.collection.ranking, self.marks.values()
        return {
            one: " ".join(str(m.index) for m in marks if not_separated(ranking, one, m.name))
            for one in self.marks
        }

    def _rows(self) -> list[dict[Any, Any]]:
        return self.collection.table.to_dict("records")

    def _standing(self, row: Mapping[Any, Any]) -> Standing:
        ranked = statistics_of(self.collection.ranking, row["head"])
        return Standing(
            mark=self.marks[row["head"]],
            row=row,
            miou=Interval(row["miou"], row["miou_low"], row["miou_high"]),
            seeds=ranked.seeds.values if ranked and ranked.seeds.n > 1 else (),
            difference=Interval(
                row["difference_to_best"], row["difference_low"], row["difference_high"]
            ),
        )

    def _cost(self, cost: str) -> CostPlots:
        table, ranking, profile = (
            self.collection.table, self.collection.ranking, self.collection.profile,
        )  # fmt: skip
        pictures = [
            tradeoff_of(
                table, cost, size, ranking=ranking, profile=profile, logarithmic=logarithmic
            )
            for logarithmic in (
                (False, True) if plottable(table, cost)[cost].min() > 0 else (False,)
            )
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
        title=", ".join(dict.fromkeys(each.title for each in comparisons)),
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
    environment.globals.update(words=words, svg=svg, sizes=SIZES)
    environment.tests["nan"] = math.isnan
    return environment


def _template(name: str) -> str:
    return (files("contextbench.report") / "templates" / name).read_text(encoding="utf-8")
