"""What figures and page show of attention: which panels stand together, and what they mean."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from contextbench.records.attention import INFLUENCE, AttentionMap, FloatArray, cell_of

CLIP = 95  # percentile of the positive cells that has the full colour
RANGE = 50  # but it is never less than this part of the largest value
OPAQUE = 0.85  # of the full colour; the image stays visible


class MapRow(NamedTuple):
    """Maps that stand together: what every head has, or all else of one head."""

    head: str  # empty: of all heads
    maps: Sequence[AttentionMap]

    @property
    def name(self) -> str:
        return self.head or INFLUENCE


def map_rows(maps: Sequence[AttentionMap]) -> list[MapRow]:
    """What every head has side by side, then a row for each head that has more."""
    others = [each for each in maps if each.kind != INFLUENCE]
    rows = [MapRow("", [each for each in maps if each.kind == INFLUENCE])]
    for head in dict.fromkeys(each.head for each in others):
        rows.append(MapRow(head, [each for each in others if each.head == head]))
    return [row for row in rows if row.maps]


def meanings(maps: Sequence[AttentionMap]) -> list[str]:
    """What each kind means, with the heads where it has several meanings; not what labels say."""
    said: dict[tuple[str, str], list[str]] = {}
    for each in maps:
        if each.kind == INFLUENCE or each.values.ndim == 1 or not each.labels:
            said.setdefault((each.kind, each.meaning), []).append(each.head)
    kinds = [kind for kind, _ in said]
    sentences = []
    for (kind, meaning), heads in said.items():
        of = f" of {', '.join(heads)}" if kinds.count(kind) > 1 else ""
        sentences.append(f"{kind[:1].upper()}{kind[1:]}{of}: {meaning[:1].lower()}{meaning[1:]}.")
    return sentences


def cells_of(
    maps: Sequence[AttentionMap], size: tuple[int, int] | None
) -> Iterator[tuple[list[str], tuple[int, int], tuple[int, int]]]:
    """Heads, the cell of their pixel and the cells (h, w) that there are: for each size of map.

    `size` is that of the image; None: the cell is that of the maps.
    """
    shapes: dict[tuple[int, int], list[AttentionMap]] = {}
    for each in maps:
        if each.values.ndim == 2:
            shapes.setdefault((each.values.shape[0], each.values.shape[1]), []).append(each)
    for shape, found in shapes.items():
        cell = found[0].cell if size is None else cell_of(found[0].pixel, size, shape)
        yield list(dict.fromkeys(each.head for each in found)), cell, shape


def finite(values: FloatArray) -> FloatArray:
    """With 0 for what is no number."""
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def clipped_at(values: FloatArray) -> float:
    """The value that is drawn in full colour; 1 for a map without positive values.

    Heads keep some weight on the pixel itself that would leave all else invisible. Where all else
    is next to nothing, it should be.
    """
    positive = values[values > 0]
    if not positive.size:
        return 1.0
    return float(max(np.percentile(positive, CLIP), positive.max() / RANGE))


def largest_parts(each: AttentionMap, count: int) -> list[tuple[str, float]]:
    """Names and values of a vector's largest parts, largest first."""
    values = finite(each.values)
    order = np.argsort(-values, kind="stable")[:count].tolist()
    labels = each.labels or [str(n) for n in range(len(values))]
    return [(labels[i], float(values[i])) for i in order]
