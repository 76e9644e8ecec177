"""Names at the right ends of curves, in place of a legend."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from contextbench.report.figures.geometry import spread
from contextbench.report.figures.style import INK, LONGEST, SMALL, head_style, shortened

NAMES_AT = 1.08  # in widths of the axes; a little more is laid out, so that none touches the edge
LABEL_HEIGHT = 1.3  # of a name beside a curve, over its font size

Ends = Mapping[str, tuple[float, float]]  # head -> where its curve ends, in data coordinates


def room_for(names: int) -> float:
    """Height in inches that so many names below each other take."""
    return names * LABEL_HEIGHT * SMALL / 72


def name_ends(figure: Figure, panels: Mapping[Axes, Ends]) -> None:
    """Name curves to the right of their axes, in the order of their ends, none over another.

    Ends the layout of the figure: nothing may be added to it afterwards.
    """
    names = {
        axes: [_name(axes, head, end) for head, end in ends.items()]
        for axes, ends in panels.items()
    }
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names move below; the layout that has room for them stays
    for axes, annotations in names.items():
        _move_apart(axes, annotations, figure.dpi)


def _name(axes: Axes, head: str, end: tuple[float, float]) -> Annotation:
    """A name to the right of the axes, joined to the end of its curve."""
    return axes.annotate(
        shortened(head, LONGEST), end, xytext=(NAMES_AT + 0.06, 0.5), textcoords="axes fraction",
        ha="left", va="center", size=SMALL, color=INK, annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": head_style(head).colour, "linewidth": 0.6,
                    "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)},
    )  # fmt: skip


def _move_apart(axes: Axes, names: list[Annotation], dpi: float) -> None:
    """Names in the order of the curves' ends, as close to these as their height allows."""
    to_fraction = axes.transData + axes.transAxes.inverted()
    ends = [float(to_fraction.transform(name.xy)[1]) for name in names]
    height = axes.get_window_extent().height * 72 / dpi  # in points
    for name, place in zip(names, spread(ends, LABEL_HEIGHT * SMALL / height), strict=True):
        name.set_position((NAMES_AT, place))
