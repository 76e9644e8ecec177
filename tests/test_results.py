"""Records survive a round trip, and what cannot be trusted is refused or set aside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contextbench.records.classes import ClassTotals, LabelInfo
from contextbench.records.counts import Areas, read_areas, write_areas
from contextbench.records.failures import Failure
from contextbench.records.formats import read_precision
from contextbench.records.history import read_history, write_history
from contextbench.records.profiles import (
    HeadCost,
    ProfileRecord,
    ScopeCounts,
    read_head_profile,
    read_profile,
)
from contextbench.records.runs import (
    RUN_VERSION,
    RunRecord,
    cell_folder,
    existing_run,
    find_runs,
    read_run,
)
from contextbench.records.stored import RecordError, write_model
from contextbench.records.views import from_version_1
from tests.report import head_records


def run_record(**changes: Any) -> RunRecord:
    content: dict[str, Any] = {
        "status": "done",
        "protocol": {"name": "probe", "train": {"steps": 3}},
        "head": {"name": "mine", "head": "ocr"},
        "seed": 1,
        "fingerprint": "f",
        "dataset_fingerprint": "d",
        "labels": LabelInfo(classes=["a", "b"], palette=[(0, 0, 0), (1, 2, 3)], groups={"g": [1]}),
        "precision": {"dtype": "float32", "memory_format": "contiguous"},
        "environment": {"cores": 2, "cuda": None},
        "started": "2025-01-01T00:00:00+00:00",
        "finished": "2025-01-01T00:01:00+00:00",
        "steps": 3,
        "train_seconds": 0.1 + 0.2,  # not a short decimal
        "totals": ClassTotals(intersection=[2**40, 0], predicted=[2**40, 2], labelled=[2**40, 2]),
    }
    return RunRecord.model_validate(from_version_1({**content, **changes}))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "record.json"
    write_model(path, run_record())
    return path


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


FAILURE = Failure(kind="TrainingError", message="the loss is not finite")


@pytest.mark.parametrize(
    "record", [run_record(), run_record(status="failed", failure=FAILURE, totals=None)]
)
def test_run_round_trip(tmp_path: Path, record: RunRecord) -> None:
    write_model(tmp_path / "record.json", record)
    assert read_run(tmp_path / "record.json") == record


def test_names_come_from_the_resolved_files() -> None:
    assert (run_record().head_name, run_record().protocol_name) == ("mine", "probe")


def test_profile_round_trip(tmp_path: Path) -> None:
    cost = HeadCost(
        counts={"head": ScopeCounts(parameters=3, macs=10**13, uncounted=["aten::cdist"])},
        inference_memory_bytes=2**40,
        latency_ms=[1.25, 1.5],
    )
    record = ProfileRecord(
        protocol_name=None,
        backbone=None,
        input="1x2048x128x128",
        training_input=None,
        scope="head",
        precision={},
        environment={},
        baseline="fcn",
        heads={"ocr": cost, "ppm": HeadCost(counts={}, failure=FAILURE)},
    )
    write_model(tmp_path / "profile.json", record)
    assert read_profile(tmp_path / "profile.json") == record


def test_records_are_frozen_and_closed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        run_record().seed = 2
    with pytest.raises(ValueError, match="miou"):
        run_record(miou=0.9)  # scores are computed from totals, never stored beside them


@pytest.mark.parametrize("version", [RUN_VERSION + 1, None])
def test_other_schema_versions_are_refused(stored: Path, version: int | None) -> None:
    edited(stored, lambda content: content.update(schema_version=version))
    message = rf"record\.json: schema version {version}, this release reads 1 and {RUN_VERSION}"
    with pytest.raises(RecordError, match=message):
        read_run(stored)


CORRUPT: dict[str, bytes] = {
    "empty": b"",
    "half-written": b'{"schema_version": 1, "status": "do',
    "not-text": b"\xff\xfe\x00",
    "not-a-mapping": b"[1, 2]",
    "no-record": b'{"schema_version": 1}',
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT)
def test_a_corrupt_record_is_set_aside_so_that_the_cell_runs_again(
    stored: Path, content: bytes
) -> None:
    stored.write_bytes(content)
    with pytest.raises(RecordError, match=r"record\.json: "):
        read_run(stored)
    assert existing_run(stored.parent) is None
    assert not stored.exists()
    assert (stored.parent / "record.json.corrupt-1").read_bytes() == content
    assert existing_run(stored.parent) is None  # as if it had never run


def totals_in(content: dict[str, Any]) -> dict[str, Any]:
    totals: dict[str, Any] = content["views"]["single"]["totals"]
    return totals


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda content: content.pop("seed"), "seed"),
        (lambda content: content.update(status="perfect"), "status"),
        (
            lambda content: content["views"]["single"]["totals"].update(labelled=[0.5, 1]),
            "labelled",
        ),
    ],
)
def test_a_record_with_a_wrong_value_is_refused_by_name(
    stored: Path, change: Callable[[dict[str, Any]], object], key: str
) -> None:
    edited(stored, change)
    with pytest.raises(RecordError, match=rf"record\.json: not a valid record: (.|\n)*{key}"):
        read_run(stored)


BAD_JSON = {
    "deep": b"[" * 100_000,
    "many digits": b'{"schema_version": ' + b"7" * 5000 + b"}",
    "more than 64 bits": b'{"schema_version": %d}' % 2**63,
    "not finite": b'{"schema_version": 1, "a": NaN}',
    "infinite by its exponent": b'{"schema_version": 1, "a": 1e999}',
    "half a surrogate": b'{"schema_version": 1, "a": "\\ud800"}',
    "a key twice": b'{"schema_version": 1, "schema_version": 2}',
    "not UTF-8": b'{"schema_version": "\xff"}',
    "no record": b'{"schema_version": 1, "a": {"b": [1, 2]}}',
    "a list": b"[1, 2]",
}


def test_sizes_whose_area_is_no_number_of_64_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_model(path, head_records.record([head_records.form("fcn", "fast", (2**31, 4))]))
    assert read_head_profile(path).costs[0].height == 2**31
    path.write_text(path.read_text().replace(str(2**31), str(2**31 + 1)))
    with pytest.raises(RecordError, match=r"costs\.0\.height"):
        read_head_profile(path)


@pytest.mark.parametrize("read", [read_run, read_profile, read_head_profile, read_precision])
@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_is_no_record_is_refused_in_one_short_line(
    tmp_path: Path, content: bytes, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert "http" not in message
    assert len(message) < len(str(path)) + 400


CHOICE: dict[str, Any] = {
    "device": "a device",
    "chosen": {"dtype": "bfloat16", "memory_format": "channels_last"},
    "samples_ms": {},
}


def test_a_stored_number_format_is_one_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "precision.json"
    path.write_text(json.dumps(CHOICE), encoding="utf-8")
    assert read_precision(path).chosen.model_dump() == CHOICE["chosen"]
    for key in ("dtype", "memory_format"):
        chosen = {**CHOICE["chosen"], key: "float8"}
        path.write_text(json.dumps({**CHOICE, "chosen": chosen}), encoding="utf-8")
        with pytest.raises(RecordError, match=rf"precision\.json: .*{key} is 'float8'"):
            read_precision(path)


def test_a_good_record_is_found_and_left_where_it_is(stored: Path) -> None:
    assert existing_run(stored.parent) == run_record()
    assert stored.exists()


def test_cells_are_found_below_any_folder(tmp_path: Path) -> None:
    cells = [cell_folder(tmp_path, "probe", head, seed) for head in ("fcn", "ocr") for seed in (0,)]
    assert cells[0] == tmp_path / "probe" / "fcn" / "seed-0"
    for cell in reversed(cells):
        write_model(cell / "record.json", run_record())
    (tmp_path / "probe" / "ppm" / "seed-0").mkdir(parents=True)  # started, without a record
    assert find_runs(tmp_path) == cells


AREAS = Areas(
    names=["a/1", "ä"],
    intersection=np.array([[1, 2, 0], [3, 0, 2**40]], dtype=np.int64),
    predicted=np.array([[2, 2, 0], [3, 1, 2**40]], dtype=np.int64),
    labelled=np.array([[1, 3, 0], [4, 0, 2**40]], dtype=np.int64),
)
ARRAYS: dict[str, Any] = {
    "image": np.array(AREAS.names),
    "intersection": AREAS.intersection,
    "predicted": AREAS.predicted,
    "labelled": AREAS.labelled,
}


COUNTS = ("intersection", "predicted", "labelled")


def test_areas_round_trip_and_add_up(tmp_path: Path) -> None:
    write_areas(tmp_path / "areas.npz", AREAS)
    read = read_areas(tmp_path / "areas.npz")
    assert read.names == AREAS.names
    for name in ("intersection", "predicted", "labelled"):
        array = getattr(read, name)
        assert array.dtype == np.int64
        np.testing.assert_array_equal(array, getattr(AREAS, name))
    assert read.totals() == ClassTotals(
        intersection=[4, 2, 2**40], predicted=[5, 3, 2**40], labelled=[5, 3, 2**40]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.array(["a"])}, "cannot be read: not one"),
        ({"predicted": AREAS.predicted[:, :2]}, "cannot be read: not one"),
        ({name: np.array([1, 2]) for name in COUNTS}, "cannot be read: not one"),
        ({name: np.array(3) for name in COUNTS}, "cannot be read: not one"),
        ({"image": np.array(7)}, "cannot be read"),
        ({"labelled": AREAS.labelled.astype(np.float32)}, "cannot be read: counts must be int64"),
        ({"labelled": np.array([None])}, "cannot be read: Object arrays"),  # would need pickle
    ],
)
def test_inconsistent_areas(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "areas.npz"
    np.savez(path, **{**ARRAYS, **change})
    with pytest.raises(RecordError, match=rf"areas\.npz: {message}"):
        read_areas(path)


def test_missing_areas(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="No such file"):
        read_areas(tmp_path / "areas.npz")
    np.savez(tmp_path / "areas.npz", image=np.array(["a"]))
    with pytest.raises(RecordError, match="intersection"):
        read_areas(tmp_path / "areas.npz")


def test_areas_cut_off_or_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "areas.npz"
    write_areas(path, AREAS)
    whole = path.read_bytes()
    np.save(tmp_path / "array.npy", AREAS.labelled)
    array = (tmp_path / "array.npy").read_bytes()
    for content in (b"", whole[:10], whole[: len(whole) // 2], whole[:-1], array):
        path.write_bytes(content)
        with pytest.raises(RecordError, match="cannot be read"):
            read_areas(path)


def test_areas_with_a_damaged_byte_are_refused_or_equal(tmp_path: Path) -> None:
    """The archive has a checksum of the arrays, not of all that surrounds them."""
    path = tmp_path / "areas.npz"
    write_areas(path, AREAS)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            assert read_areas(path).totals() == AREAS.totals()
        except RecordError:
            refused += 1
    assert refused > len(whole) // 7 // 2


HISTORY: list[dict[str, Any]] = [
    {"step": step, "lr": 0.1 / step, "loss": 1 / 3, "main": 0.25} for step in (1, 2, 3)
]


def test_history_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert read_history(path) == []  # nothing trained yet
    write_history(path, HISTORY)
    assert read_history(path) == HISTORY
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(HISTORY)


def test_a_line_cut_off_at_any_character_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    write_history(path, HISTORY)
    whole = path.read_text(encoding="utf-8")
    start = whole.rindex("{")
    for end in range(start, len(whole) - 1):  # the last one lacks its newline only
        path.write_text(whole[:end], encoding="utf-8")
        complete = 3 if whole[start:end].endswith("}") else 2
        assert read_history(path) == HISTORY[:complete]


def test_history_has_numbers_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_history(tmp_path / "history.jsonl", [{"step": 1, "loss": float("nan")}])
