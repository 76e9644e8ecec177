"""Scores per image from elsewhere, such as another tool's CSV file, ranked like counts.

The score of a method is the mean of its values over the images. That is the IoU of one class with
intersection v_i, predicted v_i and labelled 1 of each image i, since sum v_i / sum (v_i + 1 - v_i)
is the mean of v, so that draws, intervals and letters are those of counts.
"""

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd

from contextbench.config.sampling import INDEPENDENT, Sampling
from contextbench.records.stored import RecordError
from contextbench.statistics.draws import FloatArray, Resampling
from contextbench.statistics.intervals import Ranking, rank_counts
from contextbench.system.reading import read_bytes, why

COLUMNS = ("head", "image", "value")
SEED = "seed"  # a column that may be missing: then each head was trained once
LARGEST_VALUE = 1e6  # above, v + 1 - v loses the 1 to rounding


def read_values(path: Path) -> pd.DataFrame:
    """A CSV file of per-image values, all as text. Raises `RecordError` where it is none."""
    try:
        text = read_bytes(path).decode("utf-8")
        return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read as CSV: {why(error)}") from error


def rank_values(
    table: pd.DataFrame,
    source: str,
    *,
    sampling: Sampling = INDEPENDENT,
    resampling: Resampling = Resampling(),
) -> Ranking:
    """Rank heads by the mean of `value` over the images, one row an image, head and seed.

    `miou` of the ranking is that mean. Raises `RecordError`, which names `source`, for missing
    columns, values that are no finite numbers, and heads that are not of the same images.
    """
    names, counts = _counts(_checked(table, source), source)
    return rank_counts(
        counts,
        names,
        [0],
        sampling=sampling,
        resampling=resampling,
        bounds=(-math.inf, math.inf),
    )


def _checked(table: pd.DataFrame, source: str) -> pd.DataFrame:
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise RecordError(
            f"{source}: column {missing[0]!r} is missing; needed are {', '.join(COLUMNS)}, and "
            f"{SEED} where a head was trained more than once"
        )
    if table.empty:
        raise RecordError(f"{source}: there are no values")
    text = {name: table[name].astype(str) for name in ("head", "image")}
    seed = table[SEED].astype(str) if SEED in table.columns else "0"
    values = pd.to_numeric(table["value"], errors="coerce").astype(float)
    wrong = ~(values.abs() <= LARGEST_VALUE)  # NaN is not either
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise RecordError(
            f"{source}: value {table['value'].iloc[row]!r} of {text['head'].iloc[row]}, image "
            f"{text['image'].iloc[row]}: numbers up to {LARGEST_VALUE:,.0f} are allowed"
        )
    return pd.DataFrame({**text, SEED: seed, "value": values})


def _counts(table: pd.DataFrame, source: str) -> tuple[list[str], dict[str, FloatArray]]:
    """The images, and head -> counts (seeds, 3, images, 1) as `rank_counts` takes them."""
    twice = table[table.duplicated(["head", SEED, "image"])]
    if not twice.empty:
        first = twice.iloc[0]
        raise RecordError(
            f"{source}: image {first['image']} of {first['head']} seed {first[SEED]} occurs twice"
        )
    cells = table.pivot_table("value", ["head", SEED], "image", aggfunc="first")
    lacking = cells.isna()
    if lacking.to_numpy().any():
        head, seed = cells.index[int(np.flatnonzero(lacking.any(axis=1))[0])]
        image = cells.columns[int(np.flatnonzero(lacking.loc[(head, seed)])[0])]
        raise RecordError(
            f"{source}: {head} seed {seed} has no value of image {image}, which others have"
        )
    counts = {}
    for head, rows in cells.groupby(level="head", sort=False):
        values = rows.to_numpy(dtype=np.float64)  # (seeds, images)
        stacked = np.stack([values, values, np.ones_like(values)], axis=1)
        counts[str(head)] = stacked[..., None]
    return [str(name) for name in cells.columns], counts
