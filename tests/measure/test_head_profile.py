"""Costs of heads alone: what is in a record, and that each call runs what its name says."""

from itertools import product

import pytest
import torch

from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.measure import head_profile
from contextbench.measure.counts import FeatureSize
from contextbench.measure.head_profile import Extent, HeadTiming, profile_heads
from contextbench.records.profiles import FormCost, HeadProfileRecord
from heads import HEADS, Channels, build_head
from heads.attention import DenseAttention
from heads.encnet import Encoding

CPU = torch.device("cpu")
SIZE = FeatureSize(64, 9, 7)
OPTIONS = {"width": 16}


def timing(rounds: int) -> HeadTiming:
    return HeadTiming(rounds, 0, CPU)


def configs(*names: str) -> list[HeadConfig]:
    return [HeadConfig(name=name, head=name, options=OPTIONS) for name in names]


@pytest.fixture(scope="module")
def record() -> HeadProfileRecord:
    forms = ("fast", "reference")
    extent = Extent(backward=True, floors=True)
    return profile_heads([SIZE], configs("fcn", "encnet"), forms, 5, timing(2), extent)


def cost_of(record: HeadProfileRecord, head: str, implementation: str) -> FormCost:
    (cost,) = (c for c in record.costs if (c.head, c.implementation) == (head, implementation))
    return cost


def test_every_form_has_counts_memory_and_two_samples_of_every_scope(
    record: HeadProfileRecord,
) -> None:
    for cost in record.costs:
        assert cost.failure is None
        scopes = ["context", "head"] if cost.head == "fcn" else ["core", "context", "head"]
        expected = [(s, d) for s in scopes for d in ("forward", "forward_backward")]
        assert [(t.scope, t.direction) for t in cost.timings] == expected
        assert all(len(t.latency_ms) == 2 and min(t.latency_ms) > 0 for t in cost.timings)
        assert (
            cost.counts.keys() == cost.memory.keys() == cost.products.keys() == {"context", "head"}
        )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "emanet" else pytest.mark.slow)
        for name in sorted(HEADS)
    ],
)
def test_every_head_is_timed_with_backward_in_every_scope(name: str) -> None:
    """EMANet's core lets no gradient through, which once made all its times fail."""
    extent = Extent(backward=True)
    forms = ("fast", "reference")
    costs = profile_heads([SIZE], configs(name), forms, 5, timing(1), extent).costs
    assert [cost.failure for cost in costs] == [None, None]
    scopes = {"context", "head"} if name in ("fcn", "asp_ocr") else {"core", "context", "head"}
    for cost in costs:
        timed = {(each.scope, each.direction) for each in cost.timings}
        assert timed == set(product(scopes, ("forward", "forward_backward")))


def test_counts_are_those_of_the_form(record: HeadProfileRecord) -> None:
    """FCN: one 3x3 convolution. The parts of the memory add up to the peak."""
    cost = cost_of(record, "fcn", "fast")
    assert cost.counts["context"].macs == 9 * 7 * 64 * 16 * 9
    memory = cost.memory["context"]
    assert memory.input_bytes == 4 * 64 * 9 * 7
    assert (
        memory.weights_bytes + memory.input_bytes + memory.activation_peak_bytes
        == memory.peak_bytes
    )
    reference = cost_of(record, "encnet", "reference").memory["context"]
    residuals = 4 * 9 * 7 * 32 * 16
    assert reference.activation_peak_bytes > residuals
    assert cost_of(record, "encnet", "fast").memory["context"].activation_peak_bytes < residuals


def test_every_operator_of_a_form_was_timed_alone(record: HeadProfileRecord) -> None:
    named = {name for cost in record.costs for seen in cost.products.values() for name in seen}
    assert named == set(record.operators_ms)
    assert all(len(samples) == 2 for samples in record.operators_ms.values())


def test_what_is_not_asked_for_is_not_timed() -> None:
    extent = Extent(scopes=("context",))
    record = profile_heads([SIZE], configs("encnet"), ("fast",), 5, timing(1), extent)
    assert [(t.scope, t.direction) for t in record.costs[0].timings] == [("context", "forward")]
    assert record.operators_ms == {}


def test_prediction_runs_nothing() -> None:
    sizes = [FeatureSize(2048, 128, 128), FeatureSize(2048, 64, 64)]
    record = profile_heads(sizes, configs("fcn"), ("reference",), 19, timing(0))
    assert [(cost.height, cost.width) for cost in record.costs] == [(128, 128), (64, 64)]
    large, small = (cost.counts["context"].macs for cost in record.costs)
    assert large == 4 * small
    assert record.operators_ms == {}
    assert all(cost.timings == [] for cost in record.costs)


def test_a_form_that_cannot_run_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(_self: Encoding, _x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not enough memory: you tried to allocate 9 bytes")

    tried = head_profile._tried

    def failing(form: head_profile.Form, *rest: object) -> object:
        if form.cost.head == "encnet":
            monkeypatch.setattr(Encoding, "_fast", exhausted)
        return tried(form, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(head_profile, "_tried", failing)
    record = profile_heads([SIZE], configs("encnet", "fcn"), ("fast",), 5, timing(1))
    broken, healthy = record.costs
    assert broken.failure is not None
    assert broken.failure.kind == "RuntimeError"
    assert "not enough memory" in broken.failure.message
    assert broken.counts  # what was known before the failure stays
    assert broken.timings == []
    assert healthy.timings


def test_wrong_options_are_refused() -> None:
    heads = [HeadConfig(name="mine", head="fcn", options={"widht": 3})]
    with pytest.raises(ConfigError, match=r"head file 'mine'.*did you mean 'width'"):
        profile_heads([SIZE], heads, ("fast",), 5, timing(0))


@pytest.mark.parametrize(("name", "core"), [("ocnet", DenseAttention), ("encnet", Encoding)])
def test_core_is_the_part_with_two_forms(name: str, core: type) -> None:
    """Run alone on what it was given inside, it returns what it returned there."""
    head = build_head(name, Channels(8, 16, 32, 64), 5, width=16).eval()
    x = torch.randn(1, 64, 4, 5)
    inside: list[torch.Tensor] = []
    (module,) = (m for m in head.context.modules() if isinstance(m, core))
    hook = module.register_forward_hook(lambda _m, _i, output: inside.append(output))
    with torch.no_grad():
        ((found, inputs),) = head_profile._core_runs(head.context, (x,))
    hook.remove()
    assert found is module
    torch.testing.assert_close(found(*inputs), inside[0])


def test_forward_and_backward_leaves_no_gradients_behind() -> None:
    head = build_head("fcn", Channels(8, 16, 32, 64), 5, width=16).eval()
    x = torch.randn(1, 64, 4, 5)
    head_profile._forward_backward([(head.context, (x,))], timing(1))()
    assert all(parameter.grad is None for parameter in head.parameters())
    assert x.grad is None
    assert not x.requires_grad
