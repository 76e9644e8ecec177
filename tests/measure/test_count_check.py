"""Two counters beside each other: where they agree, and what either does not see."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.heads import HeadConfig
from contextbench.measure.count_check import check_heads_alone, check_models
from contextbench.measure.counts import FeatureSize
from contextbench.measure.passes import Workload
from contextbench.measure.profile import Timing
from contextbench.records.count_checks import CheckedCounts, CountCheckRecord
from contextbench.report.tables.counts import agrees, check_sheet
from tests import small

TIMING = Timing(0, 0, torch.device("cpu"))
SIZE = FeatureSize(64, 9, 7)
PIXELS, WIDTH, CLASSES = 9 * 7, 16, 5


def heads(name: str, form: str, **options: Any) -> CountCheckRecord:
    config = HeadConfig(name=name, head=name, options={"width": WIDTH, **options})
    return check_heads_alone([SIZE], [config], [form], CLASSES, TIMING)


def one(record: CountCheckRecord) -> CheckedCounts:
    (check,) = record.checks
    assert check.failure is None
    return check


def text(record: CountCheckRecord) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(check_sheet(record))
    return " ".join(captured.get().split())


def test_both_count_the_convolutions_of_fcn() -> None:
    """A 3x3 convolution and a classifier, in multiply-accumulates: a factor of 2 would show."""
    record = heads("fcn", "fast")
    convolutions, products = one(record).kinds
    macs = PIXELS * (64 * WIDTH * 9 + WIDTH * CLASSES)
    assert (convolutions.ours, convolutions.fvcore) == ({"convolution": macs}, {"conv": macs})
    assert (products.ours, products.fvcore) == ({}, {})
    assert "relu" in one(record).unseen_by_ours
    assert "batch_norm" in one(record).other_by_fvcore
    assert " equal " in text(record)
    assert CountCheckRecord.model_validate_json(record.model_dump_json()) == record


def test_what_fvcore_misses_is_named() -> None:
    """The two products of fused attention: all pairs of pixels, once for keys, once for values."""
    record = heads("ocnet", "fast", key_channels=8, value_channels=8)
    convolutions, products = one(record).kinds
    assert agrees(convolutions)
    assert convolutions.ours_macs > 0
    assert products.ours_macs == 2 * PIXELS * PIXELS * 8
    assert products.fvcore_macs == 0
    assert not agrees(products)
    assert one(record).unseen_by_fvcore["scaled_dot_product_attention"] == 1
    said = text(record)
    assert "fvcore has no count for" in said
    assert "scaled_dot_product_attention" in said
    formula = one(heads("ocnet", "reference", key_channels=8, value_channels=8))
    assert formula.kinds[1].fvcore_macs == products.ours_macs


@pytest.mark.slow
def test_whole_models_are_counted_by_both() -> None:
    check = one(check_models(Workload(small.protocol(), 5, (64, 96), None), [small.head()], TIMING))
    assert check.input == "1x3x64x96"
    assert all(agrees(kind) for kind in check.kinds)
    assert check.kinds[0].ours_macs > 0


def test_a_head_that_cannot_run_is_a_row_with_a_reason() -> None:
    """Sides that no memory holds: counted by neither."""
    config = HeadConfig(name="fcn", head="fcn")
    huge = FeatureSize(64, 2**20, 2**20)
    record = check_heads_alone([huge], [config], ["fast"], CLASSES, TIMING)
    (check,) = record.checks
    assert check.failure is not None
    assert check.kinds == []
    assert check.failure.kind in text(record)


def call(*arguments: object) -> Any:
    texts = ["profile", "--check-counts", "--device", "cpu", "--heads", "fcn"]
    return CliRunner().invoke(app, [*texts, *map(str, arguments)], env={"COLUMNS": "100"})


def test_the_command_prints_and_writes_both_counts(tmp_path: Path) -> None:
    result = call("--features", "64x9x7", "--implementation", "both", "-o", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content == json.loads((tmp_path / "counts.json").read_text())
    assert [check["implementation"] for check in content["checks"]] == ["fast", "reference"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "64x9x7", "--floors", "--backward"], "leave out --backward, --floors"),
        (["--precision", "bfloat16", "--rounds", "3"], "leave out --rounds, --precision"),
        (["--fits", "24GiB"], "leave out --check-counts"),
        (["--layout", "channels_last"], "leave out --layout"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
