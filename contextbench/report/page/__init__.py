"""The report page: one HTML file that needs nothing else, from the records of comparisons.

Everything is in the page as it is written: tables, plots as SVG, pictures as data. Scripts add
sorting, filtering, choices and tooltips to it; without them it reads the same.
Text from data is escaped by the templates, which build all HTML and SVG; scripts only set text.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2

from contextbench import __version__
from contextbench.records.comparability import uncounted_operators
from contextbench.records.examples import Examples, read_examples
from contextbench.report.bundle import subject
from contextbench.report.collection import Collection, collect
from contextbench.report.page.classes import Heat, class_heat, group_heat
from contextbench.report.page.costs import CostPlots, LossPlots, cost_plots, loss_plots
from contextbench.report.page.gallery import Gallery, gallery
from contextbench.report.page.plots import Mark, mark
from contextbench.report.page.provenance import Provenance, provenance
from contextbench.report.page.ranking import Standings, headline, standings
from contextbench.report.page.scores import ScoreTable, score_table
from contextbench.report.page.text import counted
from contextbench.report.tables.comparison import comparison_table
from contextbench.system.files import write_text

SCRIPTS = ("tips.js", "tables.js", "heads.js", "choices.js", "page.js")


@dataclass(frozen=True)
class Comparison:
    """One section of the page."""

    id: str
    title: str
    facts: Sequence[str]  # what was compared, a few words each
    headline: Sequence[str]
    heads: Sequence[Mark]
    standings: Standings
    scores: ScoreTable
    costs: Sequence[CostPlots]
    uncounted: Sequence[str]  # operators that are in none of the costs
    classes: Heat | None
    groups: Heat | None
    losses: LossPlots | None
    gallery: Gallery | None
    provenance: Provenance


def write_page(folders: Sequence[Path], out: Path) -> Path:
    """Write the page of one comparison a folder to the file `out`; return it.

    Raises `RecordError` for folders without records that can be used, `MixedProtocolsError` for a
    folder with several protocols, and `OutputError` when the file cannot be written.
    """
    parts = [_part(folder) for folder in folders]
    write_text(out, render_page(parts))
    return out


def _part(folder: Path) -> tuple[Collection, Examples | None]:
    collection = collect(folder)
    return collection, read_examples(folder, len(collection.runs[0].labels.classes))


def render_page(parts: Sequence[tuple[Collection, Examples | None]]) -> str:
    """The page as HTML: a section for each comparison with its examples."""
    comparisons = [
        comparison(collection, examples, f"comparison-{number}")
        for number, (collection, examples) in enumerate(parts, start=1)
    ]
    script = "\n".join(["'use strict';", *map(_template, SCRIPTS)])
    template = _environment().get_template("page.html")
    return template.render(
        comparisons=comparisons,
        title=", ".join(dict.fromkeys(each.title for each in comparisons)),
        version=__version__,
        style=_template("page.css"),
        script=script,
        script_hash=_hash(script),
    )


def comparison(collection: Collection, examples: Examples | None, identifier: str) -> Comparison:
    """What one section says. `identifier` is unique on the page."""
    runs, ranking = collection.runs, collection.ranking
    table = comparison_table(runs, collection.profile, ranking=ranking)
    names = [str(head) for head in table["head"]]
    marks = {name: mark(index, name) for index, name in enumerate(names)}
    return Comparison(
        id=identifier,
        title=subject(runs[0]),
        facts=_facts(collection),
        headline=headline(table, ranking),
        heads=list(marks.values()),
        standings=standings(table, ranking, marks),
        scores=score_table(table, marks),
        costs=cost_plots(collection, table, marks),
        uncounted=uncounted_operators(runs, collection.profile),
        classes=class_heat(collection, marks),
        groups=group_heat(collection, table, marks),
        losses=loss_plots(collection.histories, marks),
        gallery=gallery(examples, runs[0].labels, marks),
        provenance=provenance(collection),
    )


def _facts(collection: Collection) -> list[str]:
    runs = collection.runs
    images = next((run.evaluated_images for run in runs if run.evaluated_images), None)
    seeds = len({run.seed for run in runs})
    return [
        counted(len({run.head_name for run in runs}), "head"),
        counted(seeds, "seed"),
        *([counted(images, "image")] if images else []),
        counted(len(runs[0].labels.classes), "class"),
        *dict.fromkeys(str(run.environment.get("device") or "unknown device") for run in runs),
    ]


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(name: str) -> str:
    return (files("contextbench.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """What a content security policy calls a script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
