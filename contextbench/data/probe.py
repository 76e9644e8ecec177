"""The embedded dataset: scenes drawn from a seed in which context decides most classes.

Every image is a shuffled 4 x 4 grid of jittered figures and holds all four groups:

    local    Bricks and moss are told by colour and texture; a striped or checked patch of any hue
             by its texture. No context is needed: the control.
    scene    Three grey blobs. A small square marker lies anywhere in the image: white with a black
             core makes all three `scene_a`, black with a white core `scene_b`.
    size     Dark discs of one appearance, small or large.
    recall   Each image draws three hues. The patch of a hue is striped or checked, and the plain
             blobs *of the same hue* are `recall_striped` or `recall_checked` accordingly. Hue and
             class are independent over images, and both classes occur in each.

The patches that serve as keys are labelled as what they show, in the group `local`. So no pixel of
the group `recall` can be told locally, which labelling them with the recall classes would allow,
and patterns are nevertheless learnt directly, which labelling them as background would hinder.
For the same reason the markers have classes of their own in the group `local`: what is in doubt is
whether a head carries a cue over the image, not whether the backbone discovers that it is one.

Pixels are the same on every machine: only raw bits of PCG64 are used (numpy guarantees that stream
but not the ones that its distributions derive from it), and only integer arithmetic, or float64
arithmetic on integers far below 2**53, where it is exact.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from contextbench.data.base import DataError, Facts, LabelSet, Picture, Sample

# Part of the fingerprint: raise it whenever a change moves a pixel or a label.
PROBE_VERSION = "1"

SPLITS = ("train", "val", "test")
GRID = 4  # figures a side; as many as `_FIGURES` lists
MIN_SIDE = 64  # pixels; below, small discs and patterns fall under two pixels

# Colours for eyes with and without colour vision; the two classes of a pair differ in lightness.
_CLASSES: dict[str, tuple[int, int, int]] = {
    "background": (221, 221, 221),
    "local_brick": (213, 94, 0),
    "local_moss": (0, 110, 80),
    "local_striped": (240, 228, 66),
    "local_checked": (153, 153, 51),
    "local_marker_white": (255, 255, 255),
    "local_marker_black": (30, 30, 30),
    "scene_a": (0, 114, 178),
    "scene_b": (86, 180, 233),
    "size_small": (230, 159, 0),
    "size_large": (136, 34, 85),
    "recall_striped": (204, 121, 167),
    "recall_checked": (51, 34, 136),
}
_NAMES = tuple(_CLASSES)
LABELS = LabelSet(
    classes=_NAMES,
    palette=tuple(_CLASSES.values()),
    groups={
        group: tuple(i for i, name in enumerate(_NAMES) if name.startswith(f"{group}_"))
        for group in ("local", "scene", "size", "recall")
    },
)

# A picture is first a map of materials. Colours and labels are two look-up tables on that map, so
# what decides a label cannot leak into a colour. Patterned materials have a second tone: m + 1.
BACKGROUND, BRICK, MOSS, SCENE, SMALL, LARGE, MARKER = 0, 1, 3, 5, 6, 7, 8
KEYS, BLOBS = (10, 12, 14), (16, 17, 18)  # one of each a hue
MATERIALS = 19

# The figures of an image by the number of plain blobs of each hue.
_FIGURES = {
    1: (BRICK, MOSS, MARKER, *[SCENE] * 3, *[SMALL] * 2, *[LARGE] * 2, *KEYS, *BLOBS),
    2: (BRICK, MOSS, MARKER, *[SCENE] * 2, SMALL, LARGE, *KEYS, *BLOBS, *BLOBS),
}

HUE_CIRCLE = 6 * 256
_HUE_JITTER = 96  # keeps hues of one image at least 512 - 2 * 96 apart
_STRIPED, _CHECKED = 0, 1
_PATTERNS = ((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0))  # of the three keys

_SHADE_NODES = 5  # nodes a side of the bilinear illumination
_SHADE_RANGE = 49  # illumination is within +-24 grey levels
_NOISE_LEVELS = 32  # pixel noise is within +-16 grey levels


class Disc(NamedTuple):
    """A filled circle; blobs are unions of three."""

    material: int
    y: int
    x: int
    radius: int


class Patch(NamedTuple):
    """A square of two tones: `stripes`, `bars` (vertical stripes), `checks`, `speckle`, `core`."""

    material: int
    y: int
    x: int
    radius: int  # half the side
    pattern: str


class Plan(NamedTuple):
    """All that decides an image, but for illumination and noise."""

    marker: int  # 0: scene_a, 1: scene_b
    hues: tuple[int, ...]
    patterns: tuple[int, ...]  # of the key of each hue
    figures: tuple[Disc | Patch, ...]


class Bits:
    """Integers from the raw output of PCG64."""

    def __init__(self, *key: int) -> None:
        self._source = np.random.PCG64(np.random.SeedSequence(key))

    def below(self, bound: int) -> int:
        """Uniform in 0 .. bound - 1; the bias, below bound / 2**32, is of no consequence here."""
        return (self._word() >> 32) * bound >> 32

    def between(self, low: int, high: int) -> int:
        """Uniform in low .. high, both included; `low` where that range is empty."""
        return low + self.below(max(high - low, 0) + 1)

    def shuffled(self, count: int) -> list[int]:
        """A uniform permutation of 0 .. count - 1 (Fisher-Yates)."""
        order = list(range(count))
        for last in range(count - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """(count,) uniform bytes, the same for either byte order of the machine."""
        words: NDArray[np.uint64] = self._source.random_raw(-(-count // 8))
        return words.astype("<u8", copy=False).view(np.uint8)[:count]

    def _word(self) -> int:
        return int(self._source.random_raw())


class ContextProbe:
    """`length` images of `size` (height, width); `split` and `seed` choose the stream of scenes.

    Splits are drawn from different seed material and have no image in common. Figures scale with
    the shorter side of `size`. `blobs` is the number of plain blobs of each hue, 1 or 2.
    """

    labels = LABELS

    def __init__(
        self,
        *,
        length: int,
        size: tuple[int, int] = (192, 192),
        seed: int,
        split: str = "train",
        blobs: int = 1,
    ) -> None:
        if split not in SPLITS:
            raise DataError(f"probe: unknown split {split!r}; allowed are {', '.join(SPLITS)}")
        if length < 1 or seed < 0:
            raise DataError(f"probe: length {length} must be at least 1 and seed {seed} at least 0")
        if min(size) < MIN_SIDE:
            raise DataError(f"probe: size {size} is too small; both sides need {MIN_SIDE} pixels")
        if blobs not in _FIGURES:
            raise DataError(f"probe: blobs {blobs} must be 1 or 2, which are drawn of each hue")
        self.length, self.size, self.seed, self.split = length, size, seed, split
        self.blobs = blobs

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"probe: index {index} is outside 0 .. {self.length - 1}")
        bits = Bits(self.seed, SPLITS.index(self.split), index)
        plan = draw_plan(bits, self.size, self.blobs)
        image, labels = render(plan, bits, self.size)
        return Sample(self.name(index), torch.from_numpy(image), torch.from_numpy(labels))

    def image_size(self, _index: int) -> tuple[int, int]:
        return self.size

    def name(self, index: int) -> str:
        return f"{self.split}-{index:06d}"

    def fingerprint(self) -> str:
        """Hex digest over all that determines the scenes, `PROBE_VERSION` and the first one."""
        first = self[0]
        facts = {
            "version": PROBE_VERSION,
            "length": self.length,
            "size": list(self.size),
            "seed": self.seed,
            "split": self.split,
            "classes": self.labels.classes,
        }
        if self.blobs != 1:  # which older records say nothing of
            facts["blobs"] = self.blobs
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        digest.update(first.image.numpy().tobytes())
        digest.update(first.labels.numpy().tobytes())
        return digest.hexdigest()


class ProbeSource:
    """Options: `train_images`, `eval_images` (of val and of test), `size`, `seed`, `blobs`.

    `size` is a whole number or [height, width], `blobs` of each hue 1 or 2. No folder is needed.
    """

    def __init__(
        self,
        root: Path,  # noqa: ARG002, which all datasets take
        *,
        train_images: int = 4096,
        eval_images: int = 128,
        size: Any = 192,
        seed: int = 0,
        blobs: int = 1,
    ) -> None:
        self._size = _height_width(size)
        self._seed = _whole("seed", seed)
        self._blobs = _whole("blobs", blobs)
        evaluated = _whole("eval_images", eval_images)
        counts = {
            "train": _whole("train_images", train_images),
            "val": evaluated,
            "test": evaluated,
        }
        self._counts = counts
        self.facts = Facts("probe", LABELS, counts, size=self._size)

    def open(self, split: str) -> ContextProbe:
        """Raises `DataError` for an unknown split, and for sizes and counts that are too small."""
        length = self._counts.get(split, 1)
        return ContextProbe(
            length=length, size=self._size, seed=self._seed, split=split, blobs=self._blobs
        )

    def images(self, split: str) -> list[Picture]:
        """Drawn as they are read. Raises `DataError` as `open` does."""
        scenes = self.open(split)
        return [
            Picture(scenes.name(index), partial(_image, scenes, index))
            for index in range(len(scenes))
        ]


def _image(scenes: ContextProbe, index: int) -> torch.Tensor:
    return scenes[index].image


def _whole(name: str, value: Any) -> int:
    if type(value) is not int:  # True is an int too
        raise DataError(f"dataset probe: {name} {value!r} must be a whole number")
    return value


def _height_width(size: Any) -> tuple[int, int]:
    sides = [size, size] if type(size) is int else size
    if isinstance(sides, list | tuple) and [type(side) for side in sides] == [int, int]:
        return sides[0], sides[1]
    raise DataError(f"dataset probe: size {size!r} must be a whole number or [height, width]")


def draw_plan(bits: Bits, size: tuple[int, int], blobs: int = 1) -> Plan:
    """What to draw and where, with `blobs` plain blobs of each hue."""
    first = bits.below(HUE_CIRCLE)
    hues = tuple(
        (first + third * HUE_CIRCLE // 3 + bits.between(-_HUE_JITTER, _HUE_JITTER)) % HUE_CIRCLE
        for third in range(3)
    )
    patterns = _PATTERNS[bits.below(len(_PATTERNS))]
    marker = bits.below(2)
    cells = bits.shuffled(GRID * GRID)
    figures: list[Disc | Patch] = []
    for kind, cell in zip(_FIGURES[blobs], cells, strict=True):
        figures += _place(kind, cell, patterns, bits, size)
    return Plan(marker, hues, patterns, tuple(figures))


def _place(
    kind: int, cell: int, patterns: tuple[int, ...], bits: Bits, size: tuple[int, int]
) -> list[Disc | Patch]:
    """One figure inside its grid cell. Lengths below are for a cell of 48 pixels."""
    unit = min(size) // GRID
    low, high = _radii(kind)
    radius = bits.between(low * unit // 48, high * unit // 48)
    room = max(unit // 2 - 1 - radius, 0)
    row, column = divmod(cell, GRID)
    y = (2 * row + 1) * size[0] // (2 * GRID) + bits.between(-room, room)
    x = (2 * column + 1) * size[1] // (2 * GRID) + bits.between(-room, room)
    if kind == SCENE or kind in BLOBS:
        return _blob(kind, y, x, radius, bits)
    if kind in (SMALL, LARGE):
        return [Disc(kind, y, x, radius)]
    return [Patch(kind, y, x, radius, _pattern(kind, patterns, bits))]


def _radii(kind: int) -> tuple[int, int]:
    """Smallest and largest radius, in 48ths of a cell."""
    if kind in (SMALL, LARGE):
        return (8, 11) if kind == SMALL else (18, 22)
    if kind == MARKER:
        return (10, 10)
    return (18, 21) if kind == SCENE or kind in BLOBS else (14, 18)


def _blob(material: int, y: int, x: int, radius: int, bits: Bits) -> list[Disc | Patch]:
    """Three overlapping discs within `radius` of (y, x)."""
    part = radius * 3 // 4
    slack = (radius - part) * 5 // 7  # a shift by this much along both axes stays within `radius`
    return [
        Disc(material, y + bits.between(-slack, slack), x + bits.between(-slack, slack), part)
        for _ in range(3)
    ]


def _pattern(kind: int, patterns: tuple[int, ...], bits: Bits) -> str:
    upright = bits.below(2)
    if kind in KEYS:
        striped = patterns[KEYS.index(kind)] == _STRIPED
        return ("stripes", "bars")[upright] if striped else "checks"
    return {BRICK: "stripes", MOSS: "speckle", MARKER: "core"}[kind]


def render(
    plan: Plan, bits: Bits, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(3, H, W) uint8 image and (H, W) uint8 labels of a plan; `bits` gives texture and noise."""
    materials = _rasterise(plan, bits, size)  # (H, W)
    colours = _colours(plan)  # (MATERIALS, 3)
    image = np.empty((3, *size), dtype=np.int16)
    for channel in range(3):
        colours[:, channel].take(materials, out=image[channel], mode="clip")
    image += _shade(bits, size)
    noise = bits.bytes(image.size).reshape(image.shape)
    image += (noise % _NOISE_LEVELS).astype(np.int16) - _NOISE_LEVELS // 2
    np.clip(image, 0, 255, out=image)
    return image.astype(np.uint8), _label_of(plan).take(materials)


def _rasterise(plan: Plan, bits: Bits, size: tuple[int, int]) -> NDArray[np.intp]:
    """(H, W) map of materials."""
    band = max(min(size) // GRID // 8, 1)
    canvas = np.zeros(size, dtype=np.intp)
    for figure in plan.figures:
        y, x, radius = figure.y, figure.x, figure.radius
        window = canvas[y - radius : y + radius + 1, x - radius : x + radius + 1]
        if isinstance(figure, Disc):
            squares = np.arange(-radius, radius + 1) ** 2
            # + radius: the circle of radius + 1/2, whose four poles are not single pixels
            window[squares[:, None] + squares <= radius * (radius + 1)] = figure.material
        else:
            window[...] = figure.material + _tones(figure, band, bits)
    return canvas


def _tones(patch: Patch, band: int, bits: Bits) -> NDArray[np.intp]:
    """(side, side) zeros and ones: which tone of the patch's material a pixel has."""
    side = 2 * patch.radius + 1
    if patch.pattern == "speckle":
        return (bits.bytes(side * side).reshape(side, side) & 1).astype(np.intp)
    steps = np.arange(side)
    if patch.pattern == "core":
        inner = abs(steps - patch.radius) <= patch.radius // 4
        return (inner[:, None] & inner).astype(np.intp)
    odd = steps // band & 1
    rows = 0 if patch.pattern == "bars" else odd[:, None]
    columns = 0 if patch.pattern == "stripes" else odd
    return np.broadcast_to(rows ^ columns, (side, side))


def _colours(plan: Plan) -> NDArray[np.int16]:
    """(MATERIALS, 3) RGB. All but the recall materials are weakly saturated."""
    colours = np.zeros((MATERIALS, 3), dtype=np.int16)
    colours[BACKGROUND] = (128, 124, 118)
    colours[BRICK : BRICK + 2] = (168, 104, 80), (208, 188, 172)
    colours[MOSS : MOSS + 2] = (76, 112, 72), (118, 150, 96)
    colours[SCENE] = (172, 164, 190)
    colours[SMALL] = colours[LARGE] = (80, 82, 96)
    colours[MARKER + plan.marker] = (240, 240, 240)
    colours[MARKER + 1 - plan.marker] = (16, 16, 16)
    for key, blob, hue in zip(KEYS, BLOBS, plan.hues, strict=True):
        colours[key] = colours[blob] = hue_to_rgb(hue)
        colours[key + 1] = colours[key] // 3
    return colours


def hue_to_rgb(hue: int) -> tuple[int, int, int]:
    """A hue in 0 .. HUE_CIRCLE - 1 -> RGB in 40 .. 230: the hexagon model, in integers."""

    def channel(offset: int) -> int:
        distance = abs((hue + offset) % HUE_CIRCLE - HUE_CIRCLE // 2)  # 768 at the channel's peak
        return 40 + 190 * min(max(distance - 256, 0), 256) // 256

    return channel(0), channel(-512), channel(-1024)


def _label_of(plan: Plan) -> NDArray[np.uint8]:
    """(MATERIALS,) train id of each material."""
    labels = np.full(MATERIALS, _NAMES.index("background"), dtype=np.uint8)
    labels[BRICK : BRICK + 2] = _NAMES.index("local_brick")
    labels[MOSS : MOSS + 2] = _NAMES.index("local_moss")
    marker = "black" if plan.marker else "white"
    labels[MARKER : MARKER + 2] = _NAMES.index(f"local_marker_{marker}")
    labels[SCENE] = _NAMES.index("scene_b" if plan.marker else "scene_a")
    labels[SMALL] = _NAMES.index("size_small")
    labels[LARGE] = _NAMES.index("size_large")
    for key, blob, pattern in zip(KEYS, BLOBS, plan.patterns, strict=True):
        shown = "checked" if pattern == _CHECKED else "striped"
        labels[key : key + 2] = _NAMES.index(f"local_{shown}")
        labels[blob] = _NAMES.index(f"recall_{shown}")
    return labels


def _shade(bits: Bits, size: tuple[int, int]) -> NDArray[np.int16]:
    """(H, W) smooth illumination: random nodes, bilinearly interpolated in exact arithmetic."""
    nodes = bits.bytes(_SHADE_NODES**2).reshape(_SHADE_NODES, _SHADE_NODES).astype(np.float64)
    nodes = nodes * _SHADE_RANGE // 256 - _SHADE_RANGE // 2
    rows, columns = (_hat_weights(length) for length in size)
    total = rows @ nodes @ columns.T  # integers below 24 * H * W in size
    return np.asarray(total // (size[0] * size[1])).astype(np.int16)


def _hat_weights(length: int) -> NDArray[np.float64]:
    """(length, nodes) linear interpolation weights, as integers that add up to `length`."""
    position = np.arange(length)[:, None] * (_SHADE_NODES - 1)
    distance = abs(position - np.arange(_SHADE_NODES) * length)
    weights: NDArray[np.float64] = np.maximum(length - distance, 0).astype(np.float64)
    return weights
