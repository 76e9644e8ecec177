"""The runs of an ablation's rows, read from where `ablate` and comparisons leave them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contextbench.config.differences import differences
from contextbench.papers.ablations import Variant
from contextbench.records.comparability import seen_protocol
from contextbench.records.counts import Areas, areas_of
from contextbench.records.runs import RunRecord, cell_folder, read_run
from contextbench.records.stored import RecordError
from contextbench.report.collection import run_note


@dataclass(frozen=True)
class RowRuns:
    """What there is of one row."""

    variant: Variant
    runs: Mapping[int, RunRecord]  # by seed; failed ones too
    areas: Mapping[int, Areas]  # by seed; counts per image
    missing: tuple[str, ...] = ()  # why there is no score, one phrase for each seed or for all

    @property
    def label(self) -> str:
        return self.variant.row.label


def read_rows(
    out: Path,
    rows: Sequence[Variant],
    seeds: Sequence[int],
    unsuitable: Mapping[str, str] | None = None,
) -> list[RowRuns]:
    """The runs of every row below `out`. `unsuitable`: labels of rows that cannot be run, and why.

    Raises `RecordError` for a record that cannot be read, one of another configuration than the
    row's, and rows that were not run on the same data.
    """
    reasons = unsuitable or {}
    read = [_read(out, each, seeds, reasons.get(each.row.label)) for each in rows]
    data = {run.dataset_fingerprint: cell for row in read for cell, run in _cells(row)}
    if len(data) > 1:
        raise RecordError(
            f"rows were run on different data and do not compare: {', '.join(data.values())}"
        )
    return read


def _read(out: Path, variant: Variant, seeds: Sequence[int], reason: str | None) -> RowRuns:
    if reason is not None:
        return RowRuns(variant, {}, {}, (_one_line(f"not run: {reason}"),))
    runs: dict[int, RunRecord] = {}
    areas: dict[int, Areas] = {}
    missing: dict[int, str] = {}
    for seed in seeds:
        folder = cell_folder(out, variant.protocol.name, variant.row.head.name, seed)
        path = folder / "record.json"
        if not path.exists():
            missing[seed] = "not run"
            continue
        runs[seed] = run = _checked(read_run(path), variant, path)
        if run.totals is None:
            missing[seed] = run_note(run)
            continue
        try:
            areas[seed] = areas_of(folder, run)
        except RecordError as error:
            missing[seed] = _one_line(str(error))
    if set(missing.values()) == {"not run"} and len(missing) == len(seeds):
        return RowRuns(variant, runs, areas, ("not run",))
    return RowRuns(variant, runs, areas, tuple(f"seed {s}: {why}" for s, why in missing.items()))


def _checked(run: RunRecord, variant: Variant, path: Path) -> RunRecord:
    protocol, head = variant.protocol, variant.row.head.model_dump(mode="json")
    expected = protocol.fingerprint(
        run.dataset_fingerprint, run.weights_digest, init_digest=run.init_digest
    )
    if run.fingerprint == expected and run.head == head:
        return run
    content = protocol.seen()
    different = differences(
        {"protocol": seen_protocol(run), "head": run.head}, {"protocol": content, "head": head}
    )
    listed = ", ".join(f"{key} was {was}, is {now}" for key, (was, now) in different.items())
    cause = listed or "the version of the protocol differs"
    raise RecordError(f"{path} holds a run of another configuration: {cause}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cells(row: RowRuns) -> list[tuple[str, RunRecord]]:
    return [
        (f"{run.protocol_name}/{run.head_name} seed {seed}", run) for seed, run in row.runs.items()
    ]
