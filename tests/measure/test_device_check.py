"""What is found of a device: every part by itself, within its time, and true on the CPU."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.measure import device_check
from contextbench.measure.device_check import (
    Wanted,
    attention_kernels,
    check_device,
    deterministic_operators,
    large_logits,
    products,
)
from contextbench.records.device import DeviceRecord, read_device
from contextbench.report.tables.device import device_markdown
from tests import small

CPU = torch.device("cpu")
SIZES = ["--features", "32x6x5", "--protocol", "probe", "--image", "64x64", "--batch", "2"]
SIZES += ["--logits", "20000", "--rounds", "2", "--device", "cpu"]


def test_products_of_float32_are_as_exact_as_float32() -> None:
    """512 terms: their rounding adds up to some 1e-7 of the largest; ten bits would be 1e-4."""
    found = products(CPU)
    assert set(found) == {
        f"{what}, {dtype}" for what in ("product", "convolution") for dtype in ("float32", "tf32")
    }
    assert all(0 < float(value) < 1e-5 for value in found.values())


def test_a_kernel_is_taken_and_one_that_the_device_lacks_says_so() -> None:
    found = attention_kernels(30, CPU)
    for dtype in ("float32", "bfloat16"):
        taken = found[f"taken, {dtype}"]
        assert found[f"{taken}, {dtype}"].endswith(" ms")
        assert "RuntimeError" in found[f"CUDNN_ATTENTION, {dtype}"]


def test_what_runs_in_deterministic_mode_is_equal_twice_on_the_cpu() -> None:
    found = deterministic_operators(CPU)
    assert set(found.values()) == {"runs, twice to the bit"}
    assert not torch.are_deterministic_algorithms_enabled()


def test_logits_are_compared_with_their_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    found = large_logits(10_000, 4, CPU)
    assert found == {
        "shape": "1x4x50x50",
        "cross entropy": "as of halves",
        "argmax": "as of halves",
    }
    real = torch.nn.functional.cross_entropy

    def wrong(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return real(logits[:, :, :20], labels[:, :20])

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", wrong)
    assert large_logits(10_000, 4, CPU)["cross entropy"] == "differs from its halves"


def test_a_part_that_fails_is_a_row_and_one_after_the_time_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that goes on by ten seconds at each look, twice a part."""

    def broken(_device: torch.device) -> dict[str, str]:
        raise ValueError("no such device")

    monkeypatch.setattr(device_check, "products", broken)
    kept: list[DeviceRecord] = []
    wanted = Wanted("8x4x3", (small.head(),), "probe", (64, 64), 2, 2000, seconds=35.0)
    ticks: Iterator[float] = iter(range(0, 10_000, 10))
    record = check_device(wanted, small.execution(tmp_path), kept.append, lambda: next(ticks))
    status = [part.status for part in record.parts]
    assert status == ["failed", "done", *["skipped"] * (len(status) - 2)]
    assert [len(each.parts) for each in kept] == list(range(len(status) + 1))
    text = device_markdown(record)
    assert "ValueError: no such device" in text
    assert "the time was over" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check-device", "--features", "32x6"], "--features"),
        (["check-device", "--image", "64"], "--image"),
        (["table", "device"], "contextbench table device FOLDER"),
        (["table", "ocr-complexity", "."], "goes with `device`"),
        (["table", "device", ".", "--format", "latex"], "Markdown"),
        (["table", "device", "."], "device.json"),
    ],
)
def test_wrong_input_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_is_found_of_a_small_head(tmp_path: Path) -> None:
    """Both forms, in every format, eagerly and compiled, and what `table device` says of it."""
    none = tmp_path / "tests"
    none.mkdir()
    (none / "test_none.py").write_text(
        "import pytest\n\n\n@pytest.mark.gpu\ndef test_one():\n    pass\n"
    )
    (none / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    out = tmp_path / "device"
    command = ["check-device", "--heads", "fcn", *SIZES, "--seconds", "800"]
    result = CliRunner().invoke(app, [*command, "--tests", str(none), "-o", str(out)])
    assert result.exit_code == 0, result.output
    record = read_device(out)
    assert {part.status for part in record.parts} == {"done"}
    assert [each.precision["dtype"] for each in record.heads] == ["float32", "tf32", "bfloat16"]
    for each in record.heads:
        assert {cost.implementation for cost in each.costs} == {"fast", "reference"}
        for cost in each.costs:
            modes = [timing.mode for timing in cost.timings]
            assert modes == ["eager", "compile"] * 2
            assert all(len(timing.latency_ms) == 2 for timing in cost.timings)
    tests = next(part for part in record.parts if part.name == "tests marked gpu")
    assert tests.found["pytest"].startswith("1 passed")
    text = (out / "device.md").read_text()
    shown = CliRunner().invoke(app, ["table", "device", str(out)])
    assert shown.output == text
    for heading in ("## Parts", "## Models", "## Heads, float32", "## Heads, bfloat16"):
        assert heading in text
    printed = CliRunner().invoke(app, ["table", "device", str(out), "--json"])
    assert json.loads(printed.output) == record.model_dump(mode="json")
