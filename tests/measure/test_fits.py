"""What fits into a memory: the answer is predicted to fit and its neighbour not to."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.amounts import amount_text, bytes_of
from contextbench.config.files import ConfigError
from contextbench.measure.fits import SEARCHES, _Search, fits_of, largest_within, sized
from contextbench.measure.memory import predict_inference
from contextbench.measure.passes import HeadMemory, Workload, built, predicted
from contextbench.measure.profile import Timing
from contextbench.records.fits import FitsRecord, Largest, Varied, Work
from contextbench.report.tables.fits import fits_sheet
from tests import small
from tests.cases import quick

TIMING = Timing(0, 0, torch.device("cpu"))
BUDGET = 48 * 2**20


def work(**train: Any) -> Workload:
    return Workload(small.protocol(**train), 13, (64, 64), None)


GROWTHS: dict[str, Callable[[int], int]] = {
    "linear": lambda n: 100 + 7 * n,
    "quadratic": lambda n: 100 + 3 * n * n,
    "fourth power": lambda n: 100 + n**4,
    "in steps": lambda n: 100 + 50 * (n // 7),
    "slow, then fast": lambda n: 100 + n + (10**6 if n > 901 else 0),
    "never": lambda _: 100,
}


@pytest.mark.parametrize("name", GROWTHS)
@pytest.mark.parametrize("start", [1, 40, 10**9])
@pytest.mark.parametrize("degree", [1, 2])
def test_a_search_finds_what_trying_all_numbers_would(name: str, start: int, degree: int) -> None:
    """And has itself predicted the answer and its neighbour, with few predictions."""
    growth, most = GROWTHS[name], 1000
    for budget in (0, 99, 100, 101, 107, 163, 1000, 5000, 10**5, 10**9):
        asked: list[int] = []

        def predict(number: int, asked: list[int] = asked) -> int:
            asked.append(number)
            return growth(number)

        found = largest_within(budget, predict, most=most, start=start, degree=degree, empty=100)
        fitting = [n for n in range(1, most + 1) if growth(n) <= budget]
        assert found.largest == max(fitting, default=0)
        neighbours = {found.largest, found.largest + 1} & set(range(1, most + 1))
        assert neighbours <= set(asked)
        assert len(asked) == len(set(asked)) <= 8 + 10  # 8 by interpolation, 10 halve 1000 numbers


def test_memory_that_grows_as_supposed_is_found_with_four_predictions() -> None:
    asked: list[int] = []

    def predict(side: int) -> int:
        asked.append(side)
        return 1000 + 9 * side**2

    found = largest_within(10**6, predict, most=2000, start=64, degree=2, empty=990)
    assert found.largest == 333  # 1000 + 9 x 333^2 = 999001, and with 334 it is 1005004
    assert len(asked) <= 4


def alone(each: Workload, name: str, kind: Work, images: int, side: int) -> int:
    """Bytes predicted for this size alone, with a model of its own."""
    each, head = sized(each, images, (side, side)), small.head(name)
    if kind == "training":
        return predicted(each, head).training_bytes
    batch = torch.empty(images, 3, side, side, device="meta")
    scores = 4 * 13 * (side // 8) ** 2  # float32, of 13 classes at stride 8
    return predict_inference(built(each, head, "meta"), batch).peak_bytes + images * scores


def check(found: Largest, name: str, **train: Any) -> None:
    """Against predictions of these sizes alone."""
    step = 8 if found.varied == "side" else 1
    assert found.failure is None
    assert found.next == (found.largest or 0) + step
    for number, stated in ((found.largest, found.predicted_bytes), (found.next, found.next_bytes)):
        assert number is not None
        images, side = (1, number) if found.varied == "side" else (number, 64)
        each = replace(work(**train), processes=found.processes if images == 1 else 1)
        assert stated == alone(each, name, found.work, images, side)
    assert (found.predicted_bytes or 0) <= BUDGET < (found.next_bytes or 0)


@pytest.mark.parametrize(
    ("kind", "varied"), quick(SEARCHES, [("inference", "side"), ("training", "batch")])
)
def test_a_memory_of_just_this_size_fits_just_this(kind: Work, varied: Varied) -> None:
    """To the byte, as predicted for it alone; started beside it to spare the way there."""
    head, base = small.head(), work()
    images, side = (1, 72) if varied == "side" else (3, 64)
    budget = alone(base, "fcn", kind, images, side)
    number = 72 // 8 if varied == "side" else 3
    search = _Search(base, head, HeadMemory(base, head), kind, varied, lambda: None)
    found = search.largest(budget, {(kind, varied): number})
    assert (found.largest, found.predicted_bytes) == (
        number * (8 if varied == "side" else 1),
        budget,
    )
    assert found.next_bytes is not None
    assert found.next_bytes > budget


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn", "ppm", "ocnet", "encnet"])
def test_the_largest_that_fits_fits_and_the_next_does_not(name: str) -> None:
    record = fits_of(work(), [small.head(name)], BUDGET, TIMING)
    rows = record.heads[name].found
    assert [(row.work, row.varied) for row in rows] == [
        ("inference", "side"),
        ("inference", "batch"),
        ("training", "side"),
        ("training", "batch"),
    ]
    for row in rows:
        check(row, name)
    # A branch of PPM has one value a channel; with another process's image it has two.
    assert rows[2].processes == (2 if name == "ppm" else 1)
    assert FitsRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.slow
def test_a_step_in_parts_and_other_optimisers_are_searched_as_they_train() -> None:
    changes = {"batch": 8, "accumulate": 4, "optimizer": "adamw", "ema": 0.9}
    record = fits_of(work(**changes), [small.head()], BUDGET, TIMING)
    for row in record.heads["fcn"].found:
        check(row, "fcn", **changes)


def test_a_search_that_cannot_be_is_a_row_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the others are there."""

    def unable(*_: object) -> int:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(HeadMemory, "inference_bytes", unable)
    monkeypatch.setattr(HeadMemory, "training_bytes", lambda _, each: each.part * 2**20)
    record = fits_of(work(), [small.head()], BUDGET, TIMING)
    failed, _, side, batch = record.heads["fcn"].found
    assert failed.failure is not None
    assert (failed.failure.message, failed.largest) == ("no such kernel", None)
    assert (batch.largest, batch.next, batch.next_bytes) == (48, 49, 49 * 2**20)
    assert (side.largest, side.next) == (record.most_side, None)  # 1 MiB at every side
    text = printed(record)
    assert "RuntimeError: no such kernel" in text
    assert "more than this is not tried" in text


@pytest.mark.slow
def test_less_than_the_least_is_none() -> None:
    """More than the weights, less than they take with any image."""
    weights = sum(p.nbytes for p in weights_of(built(work(), small.head(), "meta")))
    record = fits_of(work(), [small.head()], weights, TIMING)
    for row in record.heads["fcn"].found:
        assert (row.largest, row.next) == (None, 8 if row.varied == "side" else 1)
        assert row.next_bytes is not None
        assert row.next_bytes > weights
    assert "even 8 pixels would take" in printed(record)
    with pytest.raises(ConfigError, match="less than the weights of the model with fcn") as raised:
        fits_of(work(), [small.head()], weights - 1, TIMING)
    assert f"fcn {amount_text(weights)}" in str(raised.value)


def weights_of(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def printed(record: FitsRecord) -> str:
    console = Console(width=120, file=io.StringIO())
    with console.capture() as captured:
        console.print(fits_sheet(record))
    return " ".join(captured.get().split())


def call(*arguments: object) -> Any:
    settings = [part for setting in small.SETTINGS for part in ("--set", setting)]
    tiny = ["--set", "backbone.name=resnet10", *settings]
    texts = ["profile", "--heads", "fcn", "--device", "cpu", *tiny, *map(str, arguments)]
    return CliRunner().invoke(app, texts, env={"COLUMNS": "80"})


@pytest.mark.slow
def test_the_command_prints_and_writes_what_fits(tmp_path: Path) -> None:
    result = call("--fits", "24 MiB", "-o", tmp_path, "--classes", 5)
    assert result.exit_code == 0, result.output
    assert "Within 24 MiB, by prediction alone: protocol probe" in " ".join(result.stdout.split())
    again = call("--fits", "24MiB", "--classes", 5, "--json")
    content = json.loads(again.stdout)
    assert content == json.loads((tmp_path / "fits.json").read_text())
    assert content["budget_bytes"] == 24 * 2**20
    assert FitsRecord.model_validate(content).heads["fcn"].found[0].largest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1KiB"], "--fits 1 KiB: less than the weights of the model with fcn"),
        (["24G"], "--fits '24G': write a number and its unit, like 24GiB"),
        (
            ["8MiB", "--image", "64x64", "--backward"],
            "times nothing: leave out --image, --backward",
        ),
        (["8MiB", "--features", "64x8x8", "--floors"], "leave out --features, --floors"),
        (["8MiB", "--rounds", "3"], "leave out --rounds"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: list[str], message: str) -> None:
    result = call("--fits", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("24GiB", 24 * 2**30),
        ("24 GB", 24 * 10**9),
        ("1.5MiB", 3 * 2**19),
        ("80000MB", 80 * 10**9),
        ("0.1KiB", 102),
        ("1TiB", 2**40),
    ],
)
def test_amounts_are_read_to_the_byte(text: str, amount: int) -> None:
    assert bytes_of(text, "--fits") == amount


@pytest.mark.parametrize(
    "text",
    [
        "24",
        "24G",
        "24Gb",
        "24gb",
        "24 gib",
        "-1GiB",
        "1e3GiB",
        "24,5GiB",
        "GiB",
        "",
        "nanGiB",
        "२GiB",
    ],
)
def test_amounts_without_a_clear_unit_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write a number and its unit, like 24GiB"):
        bytes_of(text, "--fits")


@pytest.mark.parametrize("text", ["0GiB", "0.0001B", "1025TiB", f"{'9' * 20}TiB"])
def test_amounts_of_no_card_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed are 1 byte to 1024 TiB"):
        bytes_of(text, "--memory")


def test_amounts_are_written_with_four_digits() -> None:
    texts = [amount_text(n) for n in (1, 1023, 1024, 24 * 10**9, 24 * 2**30, 2**41)]
    assert texts == ["1 B", "1023 B", "1 KiB", "22.35 GiB", "24 GiB", "2 TiB"]
