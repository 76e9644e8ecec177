"""Reading arrays of an archive that comes from elsewhere: nothing is inflated unseen. No torch."""

import math
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

LARGEST_ARRAY = 2**28  # bytes: 100 000 images of 300 classes
HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple[Shape, bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(
    path: Path,
    names: Sequence[str],
    check: Callable[[dict[str, Shape]], object] = lambda _: None,
) -> list[Array]:
    """The arrays of these names in a .npz file, once `check` has seen the shapes of all of them.

    Raises OSError and ValueError; `check` may raise the latter.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            check({name: _shape(archive, name) for name in names})
            return [_array(archive, name) for name in names]
    except (OSError, ValueError):
        raise
    except Exception as error:  # corrupt bytes make zipfile and numpy raise nearly anything
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _shape(archive: zipfile.ZipFile, name: str) -> Shape:
    """Of one array. Raises ValueError where it is missing, has objects, or is too large."""
    if f"{name}.npy" not in archive.namelist():
        raise ValueError(f"it has no array {name!r}")
    with archive.open(f"{name}.npy") as file:
        shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    if dtype.hasobject:
        raise ValueError(f"Object arrays are not read: {name!r}")
    if math.prod(shape) * dtype.itemsize > LARGEST_ARRAY:
        raise ValueError(f"the array {name!r} has more than {LARGEST_ARRAY} bytes")
    return shape


def _array(archive: zipfile.ZipFile, name: str) -> Array:
    with archive.open(f"{name}.npy") as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
            raise ValueError(f"there is more behind the array {name!r}")
    return array
