"""Compiled code: one graph a module, the numbers of the module itself, and a way out without it."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.frozen import without_later_defaults
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import load_protocol
from contextbench.measure.counts import FeatureSize
from contextbench.measure.head_profile import Extent, HeadTiming, profile_heads
from contextbench.models import compiled
from contextbench.models.build import build_model
from contextbench.models.compiled import Compiled, _apart, why_not_compiled
from contextbench.models.precision import Precision
from contextbench.records.history import read_history
from contextbench.records.profiles import HeadProfileRecord, read_profile
from contextbench.records.runs import RunRecord
from contextbench.report.comparison import cost_table
from contextbench.report.tables.forms import form_markdown, form_table
from contextbench.runs.cells import Setting, open_setting
from contextbench.runs.grid import run_grid
from contextbench.system.files import digest_of
from contextbench.system.interrupt import Interrupted, StopRequest
from contextbench.training.execution import Execution
from contextbench.training.loop import Training
from contextbench.training.resume import saved_progress
from heads import HEADS
from tests import small
from tests.heads.small import small_features, small_head, tensors

CPU = torch.device("cpu")
TINY = ["backbone.name=resnet10", "backbone.width=8", "head_width_factor=0.02"]
RUN = Path("tiny", "fcn", "seed-0")


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """torch looks for a compiler that is not there, and finds nothing that it compiled before."""
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "nothing"))
    torch.compiler.reset()
    why_not_compiled.cache_clear()
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        yield
    why_not_compiled.cache_clear()


def form_record(heads: list[str]) -> HeadProfileRecord:
    configs = [HeadConfig(name=name, head=name, options={"width": 8}) for name in heads]
    extent = Extent(("head",), backward=True, modes=("eager", "compile"))
    timing = HeadTiming(2, 0, CPU)
    return profile_heads([FeatureSize(32, 6, 5)], configs, ("fast",), 4, timing, extent)


def test_modules_of_one_class_have_code_of_their_own() -> None:
    """By its name, too, under which torch notes which sizes differed."""

    def call(x: int) -> int:
        return x + offset

    offset = 3
    one, other = _apart(call), _apart(call)
    assert isinstance(one, FunctionType)
    assert isinstance(other, FunctionType)
    assert one(1) == other(1) == 4
    assert one.__code__ is not other.__code__
    assert one.__code__.co_name != other.__code__.co_name


def test_a_protocol_that_does_not_compile_keeps_its_identity() -> None:
    """Records of before know no such key. Compiled it is another protocol."""
    plain = load_protocol("probe")
    written = load_protocol("probe", ["train.compile=false"])
    compiled = load_protocol("probe", ["train.compile=true"])
    assert "compile" not in without_later_defaults(written)["train"]
    assert plain.fingerprint("d") == written.fingerprint("d")
    assert compiled.fingerprint("d") != plain.fingerprint("d")


@pytest.mark.slow
@pytest.mark.usefixtures("without_compiler")
def test_without_a_compiler_eager_is_timed_and_the_other_column_says_why() -> None:
    record = form_record(["fcn"])
    (cost,) = record.costs
    assert cost.failure is None
    eager = [each for each in cost.timings if each.mode == "eager"]
    compiled = [each for each in cost.timings if each.mode == "compile"]
    assert [len(each.latency_ms) for each in eager] == [2, 2]
    assert [each.latency_ms for each in compiled] == [[], []]
    for each in compiled:
        assert each.failure is not None
        assert "no-such-compiler" in each.failure.message
    text = form_markdown(form_table(record))
    assert "forward fast, compiled" in text
    assert "Not compiled, fcn 6x5: InductorError: " in text
    assert "TORCHDYNAMO" not in text


def test_training_where_nothing_compiles_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without torch's own try, which takes seconds: that is in the next test."""
    reason = "torch cannot compile for cpu here: none"
    monkeypatch.setattr(compiled, "why_not_compiled", lambda _device: reason)
    refused_training(tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.usefixtures("without_compiler")
def test_training_without_a_compiler_is_refused_before_the_first_step(tmp_path: Path) -> None:
    refused_training(tmp_path / "runs")


def refused_training(out: Path) -> None:
    arguments = ["train", "--head", "fcn", "--device", "cpu", "--compile", "-o", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "train.compile: torch cannot compile for cpu here" in result.output
    assert "C++ compiler" in result.output
    assert not list(out.rglob("resume.pt"))
    assert not list(out.rglob("record.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modes", "compile"], "write --modes eager,compile"),
        (["--modes", "eager,fast"], "--modes 'fast' is unknown"),
        (["--modes", "eager,compile", "--predict"], "--predict times nothing"),
    ],
)
def test_modes_that_make_no_sense_are_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["profile", "--features", "32x4x4", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_modes_are_timed_in_the_same_rounds_and_compiling_apart() -> None:
    record = form_record(["fcn"])
    for cost in record.costs:
        assert [(each.direction, each.mode) for each in cost.timings] == [
            ("forward", "eager"),
            ("forward", "compile"),
            ("forward_backward", "eager"),
            ("forward_backward", "compile"),
        ]
        for each in cost.timings:
            assert each.failure is None
            assert len(each.latency_ms) == 2
            assert (each.compile_seconds is None) == (each.mode == "eager")
        seconds = cost.timings[1].compile_seconds
        assert seconds is not None
        assert seconds * 1e3 > max(cost.timings[1].latency_ms)
    row = form_table(record).iloc[0]
    eager, compiled = (cost.latency_ms for cost in record.costs[0].timings[:2])
    ratios = sorted(a / b for a, b in zip(eager, compiled, strict=True))
    assert row["head_forward_fast_compiled_speedup"] == pytest.approx(sum(ratios) / 2)
    assert "Not compiled" not in form_markdown(form_table(record))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_training_goes_on_as_if_it_had_not_been_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit; and it learns what one learns that is not compiled, up to rounding."""
    setting = open_setting(small.protocol(compile=True), None)
    whole, parts, eager = (tmp_path / name for name in ("whole", "parts", "eager"))
    stop = StopRequest()
    save = Training.save

    def saved(training: Training, **options: bool) -> None:
        save(training, **options)
        stop.requested |= training.progress.step == 2

    with monkeypatch.context() as patch:
        patch.setattr(Training, "save", saved)
        with pytest.raises(Interrupted):
            trained(setting, small.execution(parts, stop))
    assert 2 <= saved_progress(parts / RUN / "resume.pt").step < small.protocol().train.steps
    records = [trained(setting, small.execution(out)) for out in (parts, whole)]
    assert [len(record.legs) for record in records] == [2, 1]
    assert records[0].totals == records[1].totals
    histories = [read_history(out / RUN / "history.jsonl") for out in (parts, whole)]
    assert histories[0] == histories[1]
    names = [out / RUN / "checkpoint.safetensors" for out in (parts, whole)]
    assert digest_of(names[0]) == digest_of(names[1])

    plain = open_setting(small.protocol(), None)
    trained(plain, small.execution(eager))
    losses = [
        [entry["loss"] for entry in read_history(out / RUN / "history.jsonl")]
        for out in (whole, eager)
    ]
    torch.testing.assert_close(*map(torch.tensor, losses))


def trained(setting: Setting, execution: Execution) -> RunRecord:
    [record] = run_grid(setting, [small.head()], [0], Precision(), execution)
    return record


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_models_are_timed_in_both_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the training above compiled; where heads are timed, nothing is found on disk."""
    monkeypatch.setattr("contextbench.measure.profile.empty_cache", nullcontext)
    arguments = ["profile", "--heads", "fcn", "--image", "64x64", "--rounds", "2"]
    arguments += [word for each in TINY for word in ("--set", each)]
    arguments += ["--set", "train.crop=[64,64]", "--set", "train.batch=2", "--device", "cpu"]
    arguments += ["--modes", "eager,compile", "-o", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    record = read_profile(tmp_path / "profile.json")
    cost = record.heads["fcn"]
    assert cost.failure is None
    assert cost.compiled is not None
    assert cost.compiled.failure is None
    assert len(cost.latency_ms) == len(cost.compiled.latency_ms) == 2
    assert len(cost.train_latency_ms) == len(cost.compiled.train_latency_ms) == 2
    row = cost_table(record).iloc[0]
    assert row["compile_seconds"] > 0
    assert row["train_compile_seconds"] > 0
    assert row["compiled_speedup"] > 0


def once(model: Any, module: Any, inputs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of a pass in training, with the same draws of dropout."""
    torch.manual_seed(5)
    output = module(inputs)
    loss = sum((each**2).mean() for each in tensors(output))
    return tensors(output), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_code_computes_and_drops_out_as_the_module_does() -> None:
    """In float64, with gradients, at a size and at one that was never seen before."""
    head = small_head("fcn").double().train()
    compiled = Compiled(head)
    for size in [(9, 8), (7, 13)]:
        features = small_features(*size, dtype=torch.float64)
        torch.testing.assert_close(once(head, compiled, features), once(head, head, features))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(set(HEADS) - {"pyramid_oc", "isa"}))
def test_one_graph_of_a_head_takes_every_size(name: str) -> None:
    """Without a break; of the graph alone, since making code of it takes minutes.

    Not the two that attend within cells: each number of cells is a graph of its own there, 186 s
    and 23 s. At one size all heads are compiled in `heads/test_one_function.py`.
    """
    head = small_head(name).double().eval()
    compiled = graph_of_every_size(head)
    for size in [(9, 8), (7, 13)]:
        features = small_features(*size, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(tensors(compiled(features)), tensors(head(features)))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["fcn", "ocr"])
def test_one_graph_of_a_model_takes_every_size(name: str) -> None:
    """In training, with dropout and gradients; the backbone is that of all heads."""
    protocol = load_protocol("probe", TINY)
    head = HeadConfig(name=name, head=name)
    model = build_model(protocol, head, 5, seed=0, pretrained=False).double().train()
    compiled = graph_of_every_size(model)
    for height, width in [(64, 80), (80, 72)]:
        images = torch.randn(2, 3, height, width, dtype=torch.float64)
        torch.testing.assert_close(once(model, compiled, images), once(model, model, images))


def graph_of_every_size(module: nn.Module) -> Any:
    torch.compiler.reset()
    return torch.compile(module, backend="eager", fullgraph=True, dynamic=True)
