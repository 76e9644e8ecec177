"""Damaged and edited files, drawn at random: read, or refused with an error meant for users.

The default suite draws the same few mutations each time; the slow one the same many.
"""

import copy
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.heads import load_head
from contextbench.config.protocols import load_protocol
from contextbench.records.counts import Areas, read_areas, write_areas
from contextbench.records.examples import read_examples, write_examples
from contextbench.records.formats import read_precision
from contextbench.records.history import read_history
from contextbench.records.profiles import read_head_profile, read_profile
from contextbench.records.runs import read_run
from contextbench.records.settings import recorded_head, recorded_protocol
from contextbench.report.collection import collect
from contextbench.report.comparison import comparison_table, per_class_table
from contextbench.report.page import render_page
from contextbench.report.tables.comparison import comparison_sheet
from contextbench.report.tables.explain import explain_runs
from contextbench.report.tables.scaling import scaling_sheet
from contextbench.system.errors import UserError
from heads import HEADS
from tests.cases import quick
from tests.report import counted, head_records, pages, records
from tests.report.printed import render_latex, render_markdown

FEW = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MANY = settings(FEW, max_examples=2000)  # the same each time, so that what fails fails again

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 255, 256, 65536, 2**31, 2**62, 2**63, 10**400, -(2**63), 0.0,
    -0.5, 1.5,
    1e-320, 1e308, -1e308, float("inf"), float("nan"), "", "x", "inf", "../../x", "a\0b", "\x1b[2J",
    "a" * 300, "1e999", [], [[]], {}, [1, 2, 3], {"a": 1}, {"name": "x"}, [None], {"": {"": []}},
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place below a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


@st.composite
def mutated(draw: st.DrawFn, original: Any) -> Any:
    """`original` with one to three keys or items removed, replaced, repeated or exchanged."""
    content = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        *outer, last = draw(st.sampled_from(list(places(content)) or [()])) or (None,)
        parent = content
        for key in outer:
            parent = parent[key]
        kind = draw(st.sampled_from(["delete", "replace", "replace", "repeat", "swap", "rename"]))
        if last is None:
            break
        if kind == "delete":
            del parent[last]
        elif kind == "replace" or (isinstance(parent, dict) and kind == "swap"):
            parent[last] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif kind == "repeat" and isinstance(parent, list):
            parent.extend(parent[: draw(st.integers(1, 3))])
        elif kind == "swap":
            parent.reverse()
        elif isinstance(parent, dict):
            parent[draw(st.sampled_from(["x", "", "../x", "name"]))] = parent.pop(last)
    return content


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """`original` cut off, with flipped bits, or with foreign bytes within."""
    content = bytearray(original)
    kind = draw(st.sampled_from(["cut", "flip", "insert"]))
    at = draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        return bytes(content[:at])
    if kind == "flip":
        content[at] ^= 1 << draw(st.integers(0, 7))
        return bytes(content)
    foreign = draw(st.sampled_from([b"\0", b"\xff\xfe", b"[" * 2000, b"9" * 5000, b"NaN", b"\n"]))
    return bytes(content[:at] + foreign + content[at:])


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def shown(run_folder: Path) -> None:
    """What every command makes of a folder, less what is drawn."""
    collection = collect(run_folder)
    table = comparison_table(collection.runs, collection.profile, ranking=collection.ranking)
    Console(file=io.StringIO(), width=80).print(comparison_sheet(table))
    render_markdown(table, collection.notes)
    render_latex(table, collection.notes)
    per_class_table(collection.runs)
    assert collection.subject
    examples = read_examples(run_folder, len(collection.runs[0].labels.classes))
    render_page([(collection, examples)])


def run_of(head: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(WHOLE.runs[0].model_dump_json())
    return {**content, "head": {**content["head"], "name": head}}


WHOLE = pages.collection(("fcn", "ppm"), (0,))
DETAILS = counted.collection(("fcn",), (0,))
PROTOCOL: dict[str, Any] = {
    "name": "small",
    "dataset": {"name": "probe", "options": {"size": 32}},
    "backbone": {"name": "resnet10", "width": 8},
    "train": {
        "crop": [32, 32], "batch": 2, "steps": 3, "lr": 0.1, "scale": [0.5, 2.0],
        "loss": {"ohem": {"threshold": 0.7}}, "schedule": {"power": 0.9},
    },
    "evaluate": {"scales": [1.0], "mode": "whole"},
    "expected": {"source": "s", "scores": {"fcn": "1"}},
}  # fmt: skip
HEAD = {"head": "ocr", "options": {"key_channels": 8}, "loss_weights": {"aux": 0.4}}
PRECISION = {"device": "d", "chosen": {"dtype": "float32", "memory_format": "contiguous"}}
HISTORY = [{"step": n, "lr": 0.1, "loss": 1.0 / n} for n in range(1, 5)]
RUN = run_of("fcn")
PROFILE = json.loads(WHOLE.profile.model_dump_json()) if WHOLE.profile else {}
FORMS = json.loads(
    head_records.record(
        [
            head_records.form("fcn", form, (size, size), times={head_records.CONTEXT: [1.0, 2.0]})
            for form in ("fast", "reference")
            for size in (4, 8)
        ]
    ).model_dump_json()
)


def check_run(folder: Path, content: bytes) -> None:
    cell = folder / "fcn" / "seed-0"
    cell.mkdir(parents=True, exist_ok=True)
    (cell / "record.json").write_bytes(content)
    run = read_run(cell / "record.json")
    with suppress(UserError):
        recorded_protocol(run, "x")
        recorded_head(run, "x")
    shown(folder)
    explain_runs(cell, cell)


def check_profile(folder: Path, content: bytes) -> None:
    (folder / "profile.json").write_bytes(content)
    profile = read_profile(folder / "profile.json")
    table = comparison_table(WHOLE.runs, profile)
    Console(file=io.StringIO(), width=80).print(comparison_sheet(table))
    render_page([(WHOLE.__class__(WHOLE.runs, profile), None)])


def check_forms(folder: Path, content: bytes) -> None:
    (folder / "forms.json").write_bytes(content)
    Console(file=io.StringIO()).print(scaling_sheet(read_head_profile(folder / "forms.json")))


def check_file(read: Callable[[Path], object]) -> Callable[[Path, bytes], None]:
    def check(folder: Path, content: bytes) -> None:
        (folder / "file.yaml").write_bytes(content)
        read(folder / "file.yaml")

    return check


def check_protocol(path: Path) -> None:
    load_protocol(str(path)).fingerprint("d")


def check_head(path: Path) -> None:
    load_head(str(path), HEADS).model_dump_json()


def as_yaml(value: Any) -> bytes:
    return yaml.safe_dump(value).encode(errors="surrogatepass")


def as_lines(value: Any) -> bytes:
    return b"".join(as_json(each) + b"\n" for each in value)


Check = Callable[[Path, bytes], None]
FILES: dict[str, tuple[Any, Callable[[Any], bytes], Check]] = {
    "record": (RUN, as_json, check_run),
    "profile": (PROFILE, as_json, check_profile),
    "forms": (FORMS, as_json, check_forms),
    "precision": (PRECISION, as_json, check_file(read_precision)),
    "history": (HISTORY, as_lines, check_file(read_history)),
    "protocol": (PROTOCOL, as_yaml, check_file(check_protocol)),
    "head": (HEAD, as_yaml, check_file(check_head)),
}


def survives(name: str, chosen: settings, folder: Path) -> None:
    original, encoded, check = FILES[name]
    contents = st.one_of(mutated(original).map(encoded), damaged(encoded(original)))

    @chosen
    @given(contents)
    def only_user_errors_escape(content: bytes) -> None:
        try:
            check(folder, content)
        except UserError as error:
            message = str(error)
            assert len(message.splitlines()) <= 11
            assert "errors.pydantic.dev" not in message

    only_user_errors_escape()


@pytest.mark.parametrize("name", quick(FILES, FILES.keys() - {"profile"}))
def test_only_errors_for_users_escape(name: str, folder: Path) -> None:
    original, encoded, check = FILES[name]
    check(folder, encoded(original))  # which is valid before it is changed
    survives(name, FEW, folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FILES)
def test_only_errors_for_users_escape_from_many_mutations(name: str, folder: Path) -> None:
    survives(name, MANY, folder)


NPY = {
    "dtype": [np.int64, np.int32, np.float64, np.uint8, bool],
    "shape": [(), (2,), (2, 2), (3, 3)],
}


@st.composite
def archives(draw: st.DrawFn, areas: Areas) -> bytes:
    """An areas.npz with arrays of other types, shapes and numbers, or of other bytes."""
    arrays: dict[str, Any] = {
        "image": np.array(areas.names), "intersection": areas.intersection,
        "predicted": areas.predicted, "labelled": areas.labelled,
    }  # fmt: skip
    for counter, counts in areas.further.items():
        arrays |= {f"{counter}.places": counts.places, f"{counter}.values": counts.values}
    name = draw(st.sampled_from(list(arrays)))
    kind = draw(st.sampled_from(["type", "number", "shape", "names", "gone", "order", "bytes"]))
    if kind == "type":
        arrays[name] = np.zeros(arrays[name].shape, draw(st.sampled_from(NPY["dtype"])))
    elif kind == "shape":
        arrays[name] = np.zeros(draw(st.sampled_from(NPY["shape"])), np.int64)
    elif kind == "number" and name != "image":
        arrays[name] = arrays[name].copy()
        arrays[name].flat[draw(st.integers(0, arrays[name].size - 1))] = draw(
            st.sampled_from([-1, 2**62, -(2**63), 2**63 - 1, 0])
        )
    elif kind == "names":
        arrays["image"] = draw(
            st.sampled_from([np.arange(12), np.array([b"x"] * 12), np.array([None] * 12)])
        )
    elif kind == "gone":
        del arrays[name]
    elif kind == "order":
        arrays[name] = arrays[name][::-1]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return draw(damaged(buffer.getvalue())) if kind == "bytes" else buffer.getvalue()


AREAS = {
    "plain": (WHOLE.areas["fcn"][0], WHOLE.runs[0]),
    "counted": (DETAILS.areas["fcn"][0], DETAILS.runs[0]),
}


def areas_survive(chosen: settings, folder: Path, name: str) -> None:
    original, run = AREAS[name]

    @chosen
    @given(archives(original))
    def only_user_errors_escape(content: bytes) -> None:
        path = folder / "areas.npz"
        path.write_bytes(content)
        with suppress(UserError):
            areas = read_areas(path, run)
            assert areas.totals() == run.totals
            assert areas.further.keys() == original.further.keys()
            counts = (areas.intersection, areas.predicted, areas.labelled)
            assert all((each >= 0).all() for each in counts)
            assert (areas.intersection <= np.minimum(areas.predicted, areas.labelled)).all()

    only_user_errors_escape()


@pytest.mark.parametrize("name", AREAS)
def test_areas_are_those_of_the_run_or_refused(folder: Path, name: str) -> None:
    write_areas(folder / "areas.npz", AREAS[name][0])
    read_areas(folder / "areas.npz", AREAS[name][1])  # which is valid before it is changed
    areas_survive(FEW, folder, name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", AREAS)
def test_areas_are_those_of_the_run_or_refused_in_many_mutations(folder: Path, name: str) -> None:
    areas_survive(MANY, folder, name)


COMMANDS = [
    ["table", "RUNS", "--json"],
    ["report", "RUNS", "-o", "OUT/page.html"],
    ["insight", "RUNS", "--json"],
    ["explain", "RUNS/fcn/seed-0", "RUNS/ppm/seed-0", "--json"],
    ["merge", "RUNS", "OTHER", "--out", "OUT/merged"],
]
DAMAGE: dict[str, tuple[str, bytes]] = {
    "deep": ("fcn/seed-0/record.json", b"[" * 10_000),
    "digits": ("fcn/seed-0/record.json", b'{"schema_version": ' + b"1" * 5000 + b"}"),
    "no record": ("fcn/seed-0/record.json", b'{"schema_version": 1, "status": "done"}'),
    "totals": ("fcn/seed-0/record.json", as_json({**RUN, "totals": None, "labels": {}})),
    "areas": ("fcn/seed-0/areas.npz", b"PK\x03\x04" + b"x" * 50),
    "history": ("fcn/seed-0/history.jsonl", b'\xff\xfe\n{"step": 1}\n[1]\n'),
    "profile": ("profile.json", as_json({**PROFILE, "heads": {"../x": {}}})),
    "examples": ("examples/index.json", b'{"names": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_bad_file_is_named_by_every_command(tmp_path: Path, damage: str) -> None:
    runs = pages.store(WHOLE, tmp_path / "runs")
    pages.store(pages.collection(("ocr",), (0,)), tmp_path / "other")
    write_examples(pages.examples(1), runs, palette=records.PALETTE)
    file, content = DAMAGE[damage]
    (runs / file).write_bytes(content)
    said = []
    for command in COMMANDS:
        given = [
            part.replace("RUNS", str(runs))
            .replace("OTHER", str(tmp_path / "other"))
            .replace("OUT", str(tmp_path / "out"))
            for part in command
        ]
        result = CliRunner().invoke(app, given)
        assert result.exit_code in (0, 2), (command, result.output)
        assert result.exit_code == 0 or result.output.count("\n") <= 2
        said.append(result.output)
    page = tmp_path / "out" / "page.html"
    said += [page.read_text(encoding="utf-8")] if page.exists() else []
    assert any(Path(file).name in text for text in said)


def test_no_archive_is_inflated_beyond_the_images_of_its_run(tmp_path: Path) -> None:
    """Four gigabytes of zeros in four megabytes: the header tells before anything is read."""
    header = io.BytesIO()
    shape = (2**20, 512)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i8", "fortran_order": False, "shape": shape}
    )
    path = tmp_path / "areas.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("image", "intersection", "predicted", "labelled"):
            archive.writestr(f"{name}.npy", header.getvalue())  # of 4 GiB that would follow
    for run in (None, WHOLE.runs[0]):
        with pytest.raises(UserError, match=r"areas\.npz: cannot be read: the array .* bytes"):
            read_areas(path, run)
