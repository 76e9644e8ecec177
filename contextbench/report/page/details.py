"""Sections of the page on what a view counted beside the pixels of classes."""

from collections.abc import Sequence
from typing import NamedTuple

from contextbench.report.collection import Collection
from contextbench.report.confusion import confusion_of
from contextbench.report.counted import counters_of
from contextbench.report.figures.details import detail_figures
from contextbench.report.figures.heatmaps import head_confusion
from contextbench.report.figures.style import TWO_COLUMNS, Picture, data_uri
from contextbench.report.tables.confusion import confusion_sheet
from contextbench.report.tables.details import BUILDERS, details_of
from contextbench.report.tables.sheet import Sheet

TITLES = {
    "calibration": "Calibration",
    "boundary": "Boundaries",
    "trimap": "Trimaps",
    "robustness": "Robustness",
}


class Details(NamedTuple):
    """Tables, then pictures, of one section."""

    id: str
    title: str
    sheets: Sequence[Sheet]
    pictures: Sequence[Picture] = ()


def details(collection: Collection) -> list[Details]:
    """Confusions, what else was counted, then what corruptions cost."""
    confusions = [_confusion(collection)] if "confusion" in counters_of(collection) else []
    pictures = {
        each.counted: [Picture(data_uri(each.figure), each.title)]
        for each in detail_figures(collection, TWO_COLUMNS)
    }
    found = details_of(dict.fromkeys(BUILDERS, collection))
    return [
        *confusions,
        *(
            Details(name, TITLES[name], each.sheets, pictures.get(name, ()))
            for name, each in found.items()
            if each.sheets
        ),
    ]


def _confusion(collection: Collection) -> Details:
    whole = confusion_of(collection)
    sheets = [confusion_sheet(whole, "" if not whole.two else "Where the two heads differ most")]
    order = [str(head) for head in collection.table["head"] if head in whole.heads]
    if len(order) > 2:
        two = confusion_of(collection, heads=order[:2])
        sheets.append(confusion_sheet(two, f"Where {order[0]} and {order[1]} differ most"))
    if collection.labels.groups:
        groups = confusion_of(collection, groups=True)
        sheets.append(confusion_sheet(groups, "Between groups of classes"))
    title, figure = head_confusion(collection, order[0])
    return Details("confusion", "Confusions", sheets, [Picture(data_uri(figure), title)])
