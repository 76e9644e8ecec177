"""Label maps in MATLAB files, as SBD, COCO-Stuff 10k and PASCAL Context publish them."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contextbench.data.base import DataError
from contextbench.data.pictures import as_indices


def read_label_map(path: Path, *fields: str) -> NDArray[np.uint8]:
    """(H, W) raw values in one byte each. Arguments and errors as for `read_matrix`."""
    return as_indices(read_matrix(path, *fields), path)


def read_matrix(path: Path, *fields: str) -> NDArray[np.generic]:
    """What is in the field `fields[0]`, in its field `fields[1]`, and so on.

    Raises `DataError` for a damaged file, a field that is missing, and where SciPy is.
    """
    value = read_optional(path, fields[0])
    if value is None:
        raise DataError(f"{path}: has no variable {fields[0]}")
    for depth, field in enumerate(fields[1:], start=1):
        try:
            value = value[field][0, 0]  # a MATLAB structure is a 1x1 array of records
        except (ValueError, IndexError, KeyError, TypeError):
            raise DataError(f"{path}: has no field {'.'.join(fields[: depth + 1])}") from None
    return np.asarray(value)


def read_optional(path: Path, variable: str) -> Any:
    """One variable of a MATLAB file, None where it has no such one. Raises `DataError`."""
    return _loadmat(path, variable).get(variable)


def _loadmat(path: Path, name: str) -> dict[str, Any]:
    try:
        scipy_io = import_module("scipy.io")
    except ImportError:
        raise DataError(
            f"{path}: reading MATLAB files needs SciPy: pip install 'contextbench[stats]'"
        ) from None
    try:
        variables: dict[str, Any] = scipy_io.loadmat(path, variable_names=[name])
    except Exception as error:  # a parser of binary files raises anything on a damaged one
        raise DataError(f"{path}: cannot be read as a MATLAB file ({error})") from error
    return variables
