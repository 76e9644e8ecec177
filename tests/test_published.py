"""Published figures and tables load, and mistakes in them are named with file, row and key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from contextbench.config.files import ConfigError, names_in
from contextbench.papers import published
from contextbench.papers.published import (
    PublishedCost,
    load_published,
    load_table,
    published_folder,
)
from heads import HEADS

HEAD_NAMES = ["fcn", "ocr"]
ROW: dict[str, Any] = {"name": "a", "label": "A", "method": None, "head": "fcn", "counts": "all"}
TABLE: dict[str, Any] = {
    "title": "Two rows",
    "published": "ocr_complexity.csv",
    "features": {"channels": 8, "height": 4, "width": 4},
    "classes": 3,
    "baseline": "a",
    "rows": [ROW, {**ROW, "name": "b", "method": "OCR"}],
}

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes `TABLE` with some keys changed and gives the path as a user types it."""

    def written(**changes: Any) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**TABLE, **changes}), encoding="utf-8")
        return str(path)

    return written


@pytest.mark.parametrize("name", names_in("tables"))
def test_every_shipped_table_loads_with_its_published_figures(name: str) -> None:
    spec = load_table(name, HEADS)
    figures = load_published(spec)
    used = [row.method for row in spec.rows if row.method is not None]
    assert sorted(used) == sorted(figures)
    for method in used:
        assert figures[method].input_feature_map == f"1x{spec.features}"
    assert all(row.notes for row in spec.rows if row.method is not None)


def test_the_table_of_the_ocr_paper_is_shipped() -> None:
    assert "ocr-complexity" in names_in("tables")


def test_heads_of_a_table_are_its_rows(write: Write) -> None:
    rows = [ROW, {**ROW, "name": "b", "head": "ocr", "options": {"width": 7}}]
    heads = load_table(write(rows=rows), HEAD_NAMES).heads()
    assert [(h.name, h.head, h.options) for h in heads] == [
        ("a", "fcn", {}),
        ("b", "ocr", {"width": 7}),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "unknown key 'titel'; did you mean 'title'?"),
        ({"features": {"channels": 8, "height": 4}}, "key 'features.width' is missing"),
        ({"rows": []}, "key 'rows' is []"),
        (
            {"rows": [ROW, {**ROW, "lable": "B"}]},
            "row 2: unknown key 'lable'; did you mean 'label'?",
        ),
        ({"rows": [{**ROW, "counts": 3}]}, "row 1: key 'counts' is 3"),
        ({"rows": ["fcn"]}, "row 1: must hold a mapping of keys, found str"),
        ({"rows": [ROW, ROW]}, "the names of rows must differ, got a, a"),
        ({"baseline": "c"}, "baseline 'c' is no row"),
        (
            {"rows": [{**ROW, "head": "ocrs"}]},
            "row 'a': head 'ocrs' is unknown; did you mean 'ocr'?",
        ),
    ],
)
def test_mistakes_in_a_table_are_named(write: Write, changes: dict[str, Any], message: str) -> None:
    path = write(**changes)
    with pytest.raises(ConfigError) as error:
        load_table(path, HEAD_NAMES)
    assert str(error.value).startswith(path)
    assert message in str(error.value)


def test_an_unknown_table_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="unknown table 'ocr-complexty'; did you mean"):
        load_table("ocr-complexty", HEAD_NAMES)


def test_a_method_that_is_not_published_is_refused(write: Write) -> None:
    spec = load_table(write(rows=[{**ROW, "method": "OCRs"}]), HEAD_NAMES)
    with pytest.raises(ConfigError, match=r"row 'a': method 'OCRs' is not in .* mean 'OCR'"):
        load_published(spec)


HEADER = "method,params_m,memory_mb,flops_g,time_ms,input_feature_map,gpu,status,source"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER, "A,1,2,3,4,1x8x4x4,P40,guessed,paper"], "line 2: key 'status' is 'guessed'"),
        ([HEADER, "A,one,2,3,4,1x8x4x4,P40,verified,paper"], "line 2: key 'params_m' is 'one'"),
        ([HEADER, "A,1,2,3,4,1x8x4x4,P40,verified"], "line 2: key 'source' is missing"),
        ([HEADER, "A,1,2,3,4,1x8x4x4,P40,verified,p,q"], "line 2: unknown key 'None'"),
        ([f"{HEADER},speed", "A,1,2,3,4,1x8x4x4,P40,verified,p,9"], "unknown key 'speed'"),
    ],
)
def test_wrong_figures_are_named_with_their_line(
    write: Write, tmp_path: Path, lines: list[str], message: str
) -> None:
    figures = tmp_path / "figures.csv"
    figures.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_published(load_table(write(published=str(figures)), HEAD_NAMES))
    assert str(error.value).startswith(str(figures))
    assert message in str(error.value)


def test_figures_that_cannot_be_read_are_refused(write: Write, tmp_path: Path) -> None:
    spec = load_table(write(published=str(tmp_path / "none.csv")), HEAD_NAMES)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_published(spec)


def test_figures_are_read_in_base_units() -> None:
    """23.1 M, 619 G; MB stand for MiB; empty cells are missing."""
    given = {"input_feature_map": "1x8x4x4", "gpu": "P40", "status": "verified", "source": "paper"}
    cost = PublishedCost(
        method="A", params_m=23.1, memory_mb=792, flops_g=619, time_ms=None, **given
    )
    assert (cost.parameters, cost.flops) == (23_100_000, 619_000_000_000)
    assert cost.memory_bytes == 792 * 1024 * 1024
    empty = dict.fromkeys(("params_m", "memory_mb", "flops_g", "time_ms"), "")
    nothing = PublishedCost.model_validate({"method": "A", **empty, **given})
    assert (nothing.parameters, nothing.flops, nothing.memory_bytes) == (None, None, None)


def test_published_figures_are_found_in_a_checkout_and_in_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert published_folder() == Path(__file__).parents[1] / "results" / "published"
    package = tmp_path / "contextbench"
    (package / "published").mkdir(parents=True)
    monkeypatch.setattr(published, "__file__", str(package / "papers" / "published.py"))
    assert published_folder() == package / "published"
