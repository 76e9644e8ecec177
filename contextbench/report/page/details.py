"""Sections of the page on what a view counted beside the pixels of classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from contextbench.records.counters import CounterName
from contextbench.report.boundaries import boundary_bands, calibration_of, trimap_bands
from contextbench.report.collection import Collection
from contextbench.report.confusion import confusion_of
from contextbench.report.counted import counters_of
from contextbench.report.figures.confusion import confusion_figure
from contextbench.report.figures.details import (
    reliability_figure,
    robustness_figure,
    trimap_figure,
)
from contextbench.report.figures.style import TWO_COLUMNS, Picture, data_uri
from contextbench.report.robustness import robustness_of
from contextbench.report.tables.confusion import confusion_sheet
from contextbench.report.tables.details import (
    BANDS,
    bands_sheet,
    calibration_sheet,
    robustness_sheets,
)
from contextbench.report.tables.sheet import Sheet


@dataclass(frozen=True)
class Details:
    """Tables, then pictures, of one section."""

    id: str
    title: str
    sheets: Sequence[Sheet]
    pictures: Sequence[Picture] = ()


def details(collection: Collection) -> list[Details]:
    """In the order of `_BUILDERS`, then what corruptions cost."""
    counted = counters_of(collection)
    found = [build(collection) for name, build in _BUILDERS.items() if name in counted]
    return [*found, *_robustness(collection)]


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
    best = confusion_of(collection, heads=order[:1], top=0)
    title = f"What {order[0]} takes each class for: {collection.subject}"
    figure = confusion_figure(best, order[0], title)
    return Details("confusion", "Confusions", sheets, [_picture(figure, title)])


def _boundary(collection: Collection) -> Details:
    bands = boundary_bands(collection)
    sheet = bands_sheet(bands, BANDS["boundary"][1])
    return Details("boundary", "Boundaries", [sheet])


def _trimap(collection: Collection) -> Details:
    bands = trimap_bands(collection)
    title = f"mIoU near boundaries: {collection.subject}"
    sheet = bands_sheet(bands, BANDS["trimap"][1])
    figure = trimap_figure(bands, title, width=TWO_COLUMNS)
    return Details("trimap", "Trimaps", [sheet], [_picture(figure, title)])


def _calibration(collection: Collection) -> Details:
    found = calibration_of(collection)
    title = f"Accuracy by confidence: {collection.subject}"
    figure = reliability_figure(found, title, width=TWO_COLUMNS)
    return Details(
        "calibration", "Calibration", [calibration_sheet(found)], [_picture(figure, title)]
    )


def _robustness(collection: Collection) -> list[Details]:
    found = robustness_of(collection)
    if found is None or not found.points:
        return []
    title = f"mIoU on corrupted images: {collection.subject}"
    figure = robustness_figure(found, title, width=TWO_COLUMNS)
    return [
        Details("robustness", "Robustness", robustness_sheets(found), [_picture(figure, title)])
    ]


def _picture(figure: Figure, title: str) -> Picture:
    return Picture(data_uri(figure), title)


_BUILDERS: dict[CounterName, Callable[[Collection], Details]] = {
    "confusion": _confusion,
    "calibration": _calibration,
    "boundary": _boundary,
    "trimap": _trimap,
}
