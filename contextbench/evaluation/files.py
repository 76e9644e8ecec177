"""Predictions as PNG files, each of which says what made it, so that a split can be resumed.

A text chunk of the file, which programs that read pictures skip, holds the `origin` of the
prediction and a digest of the image. Nothing else has to lie in the folder, which goes to a server
as it is.

Axes: (H, W) image pixels.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from contextbench.data.base import Picture
from contextbench.data.labels import Colour, colourise
from contextbench.data.submission import Submission
from contextbench.system.files import OutputError, write_atomic

KEYWORD = "contextbench"  # of the text chunk
OVERLAY_SHARE = 0.5  # of the mask's colour in an overlay
MOST_CONFIDENT = 2**16 - 1  # grey level of a probability of 1

Confidence = NDArray[np.float32]  # (H, W) probabilities of the train ids


class Format(Protocol):
    """What is written for an image; the representation says all that makes a difference."""

    def file_names(self, name: str) -> Sequence[str]:
        """The files of an image, below the folder of all."""
        ...

    def pictures(
        self, image: Tensor, labels: NDArray[np.uint8], confidence: Confidence | None
    ) -> Iterator[Image.Image]:
        """The files' contents for an image (3, H, W) uint8 and its train ids (H, W)."""
        ...


@dataclass(frozen=True)
class Overlays:
    """Train ids, colours, colours over the image; and probabilities, of 16 bits.

    Whether there are probabilities changes nothing in the other files, so it is not in what the
    format is told by.
    """

    palette: tuple[Colour, ...]
    confidence: bool = field(default=False, repr=False)

    def file_names(self, name: str) -> Sequence[str]:
        kinds = ("mask", "colour", "overlay", *(["confidence"] if self.confidence else []))
        return [f"{name}_{kind}.png" for kind in kinds]

    def pictures(
        self, image: Tensor, labels: NDArray[np.uint8], confidence: Confidence | None
    ) -> Iterator[Image.Image]:
        yield Image.fromarray(labels)
        colours = colourise(labels, self.palette)
        yield Image.fromarray(colours)
        yield Image.fromarray(_overlaid(image, colours))
        if confidence is not None:
            yield Image.fromarray(np.rint(confidence * MOST_CONFIDENT).astype(np.uint16))


@dataclass(frozen=True)
class Submitted:
    """What the benchmark reads."""

    submission: Submission

    def file_names(self, name: str) -> Sequence[str]:
        return [self.submission.file_name(name)]

    def pictures(
        self, _image: Tensor, labels: NDArray[np.uint8], _confidence: Confidence | None
    ) -> Iterator[Image.Image]:
        yield self.submission.picture(labels)


@dataclass(frozen=True)
class PredictionFolder:
    """Files of one `origin`: a text of one word that says which model under which settings."""

    folder: Path
    format: Format
    origin: str

    def paths(self, name: str) -> list[Path]:
        """The files of the image `name`."""
        return [self.folder / file for file in self.format.file_names(name)]

    def check(self, pictures: Iterable[Picture], *, replace: bool) -> None:
        """Raise `OutputError` where files of two images, or of something else, are in the way.

        Predictions of another origin are in the way unless `replace`; other files always are.
        """
        owners: dict[Path, str] = {}
        for picture in pictures:
            for path in self.paths(picture.name):
                if path in owners:
                    raise OutputError(
                        f"{path} would be the prediction of two images, {owners[path]} and "
                        f"{picture.place}; below one folder, or by a pattern in quotes, images "
                        "keep their folders"
                    )
                owners[path] = picture.place
        found = {path: _stamp(path) for path in owners if path.exists()}
        foreign = [path for path, stamp in found.items() if stamp is None]
        if foreign:
            raise OutputError(
                f"{_first(foreign)}: not written by contextbench predict; choose another --out"
            )
        others = [path for path, stamp in found.items() if stamp and stamp[0] != self.origin]
        if others and not replace:
            raise OutputError(
                f"{_first(others)}: predicted by another run or with other settings; choose "
                "another --out, or --fresh to replace them"
            )

    def holds(self, name: str, image: Tensor) -> bool:
        """Whether all files of the image are there, of this origin and of these pixels."""
        stamp = [self.origin, _digest(image)]
        return all(path.exists() and _stamp(path) == stamp for path in self.paths(name))

    def write(
        self,
        name: str,
        image: Tensor,
        labels: NDArray[np.uint8],
        confidence: Confidence | None = None,
    ) -> None:
        """Write the files of an image (3, H, W) uint8 with train ids (H, W), each atomically."""
        about = PngInfo()
        about.add_text(KEYWORD, f"{self.origin} {_digest(image)}")
        pictures = self.format.pictures(image, labels, confidence)
        for path, picture in zip(self.paths(name), pictures, strict=True):
            write_atomic(path, partial(picture.save, format="PNG", pnginfo=about))


def written_here(path: Path) -> bool:
    """Whether a file is one of predictions."""
    return _stamp(path) is not None


def _overlaid(image: Tensor, colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) colours over the image (3, H, W); by rows, since a mean has 8 bytes a value."""
    pixels, overlay = image.permute(1, 2, 0).numpy(), np.empty_like(colours)
    for row, (below, above) in enumerate(zip(pixels, colours, strict=True)):
        overlay[row] = (1 - OVERLAY_SHARE) * below + OVERLAY_SHARE * above
    return overlay


def _stamp(path: Path) -> list[str] | None:
    """Origin and digest in a file, None for one that has none."""
    try:
        with Image.open(path) as file:
            text = str(file.info.get(KEYWORD, ""))
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for other files
        return None
    return text.split() or None


def _digest(image: Tensor) -> str:
    pixels = image.numpy()
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()[:16]


def _first(paths: Sequence[Path]) -> str:
    more = len(paths) - 1
    return f"{paths[0]} and {more} more" if more else str(paths[0])
