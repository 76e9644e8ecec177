"""What is not a cell fails by itself: a note and a missing number, never a lost comparison."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console

from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.measure import profile
from contextbench.measure.passes import Workload
from contextbench.models.device import device_name
from contextbench.models.precision import Precision
from contextbench.records.profiles import ProfileRecord, read_profile
from contextbench.report import bundle
from contextbench.report.collection import Collection
from contextbench.runs import comparison
from contextbench.runs.cells import open_setting
from contextbench.runs.comparison import Plan, compare, shared_precision
from contextbench.system.console import Reporter
from contextbench.training.execution import Execution
from tests import small


def run(out: Path, *heads: HeadConfig, **train: Any) -> Collection:
    plan = Plan(heads or [small.head()], [0], rounds=2, train_rounds=2, examples=1)
    return compare(small.protocol(**train), plan, small.execution(out))


def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "tiny" / "table.csv").set_index("head")


def without_room_for(monkeypatch: pytest.MonkeyPatch, head: str, error: Exception, times: int):
    """Timing of passes of one head fails so many times."""
    real, left = profile.pass_call, iter(range(times))

    def pass_call(work: Any, config: HeadConfig, *rest: Any) -> Callable[[], object]:
        if config.name == head and next(left, None) is not None:
            raise error
        return real(work, config, *rest)

    monkeypatch.setattr(profile, "pass_call", pass_call)


def profiled(out: Path, *heads: str) -> ProfileRecord:
    setting = open_setting(small.protocol(), None)
    work = comparison.workload(setting, Precision(), small.execution(out))
    timing = profile.Timing(2, 0, torch.device("cpu"))
    return profile.profile_models(work, [small.head(name) for name in heads], timing)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), TypeError("a bug")]
)
def test_a_head_that_cannot_be_timed_is_a_row_without_latency(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_room_for(monkeypatch, "ppm", error, times=2)
    costs = profiled(tmp_path, "fcn", "ppm").heads
    assert len(costs["fcn"].latency_ms) == 2
    assert costs["ppm"].latency_ms == []
    assert costs["ppm"].failure is not None
    assert f"while forward passes were timed: {error}" in costs["ppm"].failure.message
    assert costs["ppm"].training_memory_bytes


@pytest.mark.slow
def test_what_has_no_room_beside_the_others_is_timed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_room_for(monkeypatch, "ppm", MemoryError("9 GiB"), times=1)
    record = profiled(tmp_path, "fcn", "ppm")
    assert [len(cost.latency_ms) for cost in record.heads.values()] == [2, 2]
    assert all(cost.failure is None for cost in record.heads.values())
    [note] = record.notes
    assert note.startswith("The forward passes of ppm were timed alone")


@pytest.mark.slow
def test_a_comparison_outlives_costs_examples_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three fail, and a second start goes the same way instead of ending."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the disk of a friend")

    for module, name in (
        (comparison, "profile_models"),
        (comparison, "store_examples"),
        (bundle, "course_figure"),
    ):
        monkeypatch.setattr(module, name, fail)
    for _ in range(2):
        collection = run(tmp_path)
        assert [each.status for each in collection.runs] == ["done"]
        assert table(tmp_path)["miou"].notna().all()
        assert (tmp_path / "tiny" / "figures" / "per-class.svg").exists()
        cause = "RuntimeError: the disk of a friend"
        for note in (
            f"There are no costs, or not all: {cause}",
            f"There are no examples, or not all: {cause}",
            f"Figures are missing: {cause}",
        ):
            assert note in collection.notes
    assert "There are no costs" in (tmp_path / "tiny" / "table.md").read_text()


@pytest.mark.slow
def test_heads_without_a_completed_run_are_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are ratios those to them. One image cannot train a branch that is pooled to 1x1."""
    monkeypatch.setattr(comparison, "write_report", lambda *_, **__: [])
    run(tmp_path, small.head("ppm"), small.head(), batch=1)
    costs = read_profile(tmp_path / "tiny" / "profile.json")
    assert costs.heads["ppm"].latency_ms == []
    assert costs.heads["ppm"].failure is not None
    assert costs.baseline == "fcn"
    assert len(costs.heads["fcn"].latency_ms) == 2


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (small.head("ppm", bins="x"), "head file 'ppm'"),
        (small.head("ppm", widht=3), "did you mean 'width'"),
        (HeadConfig(name="mine", head="fcn", loss_weights={"axu": 1}), "no such loss term"),
    ],
)
def test_a_wrong_option_of_any_head_is_refused_before_the_first_step(
    head: HeadConfig, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, small.head(), head)
    assert list(tmp_path.iterdir()) == []


def test_views_that_no_model_can_see_are_refused_before_the_first_step() -> None:
    """Each scale is fine; that of a large image is 102 400 pixels high."""
    protocol = small.protocol().model_copy(
        update={"evaluate": {"single": EvaluateConfig(scales=(1.0, 100))}}
    )
    Workload(protocol, 13, (64, 64), None).check()
    with pytest.raises(ConfigError, match="an image of 1024x2048 becomes 102400x204800; at most"):
        Workload(protocol, 13, (1024, 2048), None).check()


def auto(**train: Any) -> Protocol:
    return small.protocol(**train).model_copy(update={"precision": "auto"})


def told(out: Path) -> tuple[Execution, io.StringIO]:
    said = io.StringIO()
    console = Console(file=said, width=400)
    return replace(small.execution(out), reporter=Reporter(console)), said


@pytest.mark.slow
def test_a_head_that_cannot_train_is_left_out_of_the_choice_of_a_format(tmp_path: Path) -> None:
    """And a stored choice that no format has is set aside, and said to be."""
    execution, said = told(tmp_path)
    setting = open_setting(auto(batch=1), None)
    heads = [small.head("ppm"), small.head()]
    path = tmp_path / "tiny" / "precision.json"
    path.parent.mkdir()
    device = device_name(torch.device("cpu"))
    damaged = {"device": device, "chosen": {"dtype": "float8", "memory_format": "contiguous"}}
    path.write_text(json.dumps(damaged))
    chosen = shared_precision(setting, heads, execution)
    assert "it is now precision.json.corrupt-1, and the number format is chosen anew" in (
        said.getvalue()
    )
    assert "ppm is left out of the choice: ValueError: batch norm over one value" in said.getvalue()
    stored = json.loads(path.read_text())
    assert stored["left_out"].keys() == {"ppm"}
    assert stored["samples_ms"]["float32 contiguous"].keys() == {"fcn"}
    assert Precision(**stored["chosen"]) == chosen == shared_precision(setting, heads, execution)
