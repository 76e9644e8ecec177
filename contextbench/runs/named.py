"""Models and comparisons from names, as the command line makes them, for programs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from contextbench.config.files import ConfigError
from contextbench.config.frozen import LARGEST_SEED
from contextbench.config.grids import axis_of
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol, load_protocol, overridden
from contextbench.config.protocols import identified as of_plugin
from contextbench.data import dataset_source
from contextbench.models.build import build_model as build
from contextbench.models.heads import identified, named_head
from contextbench.models.segmenter import Segmenter
from contextbench.report.frames import results_frame
from contextbench.report.tables.tuning import trials_frame
from contextbench.runs import comparison, tuning
from contextbench.runs.initial import start_of, started
from contextbench.system.interrupt import Interrupted
from contextbench.training.execution import Execution, executing

GivenHead = str | Path | HeadConfig
GivenProtocol = str | Path | Protocol

T = TypeVar("T")


def build_model(
    protocol: GivenProtocol,
    head: GivenHead,
    *,
    classes: int | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    pretrained: bool = True,
) -> Segmenter:
    """A model as `train` starts from it: normalised images (N, 3, H, W) to logits (N, K, h, w).

    `protocol` and `head` are names, YAML files, or read already; `overrides` are as for `--set`.
    `classes` is K, that of the protocol's dataset unless given; `pretrained=False` leaves its
    weights out. Raises `ConfigError` for what does not exist or does not fit, `DataError` for a
    dataset whose classes are not known.
    """
    settings, chosen = protocol_of(protocol, overrides), head_of(head)
    names = None
    if classes is None:
        names = dataset_source(settings.dataset).facts.labels.classes
        classes = len(names)
    _check_number("classes", classes, 2, 255)
    _check_number("seed", seed, 0, LARGEST_SEED)
    start = start_of(settings, chosen, classes, names) if pretrained else None
    model = build(settings, chosen, classes, seed=seed, pretrained=pretrained and start is None)
    return started(model, start)


def compare(
    protocol: GivenProtocol,
    heads: GivenHead | Sequence[GivenHead],
    *,
    seeds: Sequence[int] = (0,),
    out: str | Path = "runs",
    data_root: str | Path | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    workers: int = 0,
    rounds: int = 15,
    examples: int = 4,
    figures: bool = True,
    tuned: str | Path | None = None,
    fresh: bool = False,
    retry_failed: bool = False,
    quiet: bool = False,
) -> pd.DataFrame:
    """Train, evaluate and measure heads like the command; the table that `read_results` gives.

    `tuned` is the folder that `tune` wrote: heads run with their choices.
    What is on disk below `out` is not run again. A head that failed is a row that says so. Without
    `figures` none are drawn, which takes longer than small trainings do. Raises `UserError`s for
    wrong input and KeyboardInterrupt on request; the same call then goes on.
    """
    settings = protocol_of(protocol, overrides)
    several = [heads] if isinstance(heads, str | Path | HeadConfig) else heads
    _check_number("rounds", rounds, 1)
    for name, value in (("examples", examples), ("workers", workers)):
        _check_number(name, value, 0)
    plan = comparison.Plan(
        heads=_different("heads", [head_of(head) for head in several]),
        seeds=_seeds(seeds),
        fresh=fresh,
        retry_failed=retry_failed,
        rounds=rounds,
        examples=examples,
        figures=figures,
        tuned=None if tuned is None else Path(tuned),
    )
    with _executing(settings, out, data_root, device, workers, quiet) as execution:
        return results_frame(comparison.compare(settings, plan, execution))


def tune(
    protocol: GivenProtocol,
    heads: Sequence[GivenHead],
    grid: Mapping[str, Sequence[Any]],
    *,
    view: str | None = None,
    seeds: Sequence[int] = (0,),
    out: str | Path = "runs",
    data_root: str | Path | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    workers: int = 0,
    fresh: bool = False,
    retry_failed: bool = False,
    quiet: bool = False,
) -> pd.DataFrame:
    """Try every choice of values with every head like the command; a row a trial.

    `grid` has values for keys as in `--grid`: `{"train.lr": [0.01, 0.03]}`. What is chosen is
    marked, and lies in `OUT/PROTOCOL-tuning` for `compare(..., tuned=...)`. Raises and goes on as
    `compare` does.
    """
    settings = protocol_of(protocol, overrides)
    plan = tuning.Plan(
        heads=_different("heads", [head_of(head) for head in heads]),
        axes=[axis_of(key, values) for key, values in grid.items()],
        seeds=_seeds(seeds),
        view=view,
        fresh=fresh,
        retry_failed=retry_failed,
    )
    with _executing(settings, out, data_root, device, workers, quiet) as execution:
        return trials_frame(tuning.tune(settings, plan, execution))


@contextmanager
def _executing(
    settings: Protocol,
    out: str | Path,
    data_root: str | Path | None,
    device: str,
    workers: int,
    quiet: bool,
) -> Iterator[Execution]:
    """Raises KeyboardInterrupt on request."""
    root = None if data_root is None else Path(data_root)
    try:
        with executing(Path(out), device, root, workers, shared=settings, quiet=quiet) as execution:
            yield execution
    except Interrupted:
        raise KeyboardInterrupt from None


def _seeds(given: Sequence[int]) -> list[int]:
    return _different("seeds", [_check_number("seed", seed, 0, LARGEST_SEED) for seed in given])


def protocol_of(protocol: GivenProtocol, overrides: Sequence[str] = ()) -> Protocol:
    """By name or file, or as it is, with `key.key=value` applied. Raises `ConfigError`."""
    if isinstance(protocol, Protocol):
        return overridden(protocol, overrides) if overrides else of_plugin(protocol)
    return load_protocol(str(protocol), overrides)


def head_of(head: GivenHead) -> HeadConfig:
    """By name, place or file, or as it is. Raises `ConfigError`, and `PluginError` for plug-ins."""
    return identified(head) if isinstance(head, HeadConfig) else named_head(str(head))


def _different(what: str, given: list[T]) -> list[T]:
    names = [str(getattr(each, "name", each)) for each in given]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"{what} {', '.join(names) or 'none'}: one or more different ones")
    return given


def _check_number(name: str, value: int, lowest: int, highest: int = 10**9) -> int:
    if not isinstance(value, int) or not lowest <= value <= highest:
        raise ConfigError(f"{name} {value!r}: whole numbers from {lowest} to {highest}")
    return value
