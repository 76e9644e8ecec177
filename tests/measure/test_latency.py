import pytest
import torch
from torch import Tensor, nn

from contextbench.measure.latency import forward_call, interleaved, order_of_round
from contextbench.models.precision import Precision
from heads.interface import Features
from tests.measure.heads import CHANNELS, TinyHead

CPU = torch.device("cpu")
CHANNELS_LAST = Precision(memory_format="channels_last")


class Clock:
    """Time that passes only when a call says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def pass_(self, seconds: float) -> None:
        self.seconds += seconds


def test_rounds_have_orders_of_their_own_and_warm_up_is_dropped() -> None:
    clock, order, seen = Clock(), [], []

    def call(name: str) -> None:
        order.append(name)
        clock.pass_(0.001 * len(order))  # every call takes longer than the one before

    names = "abc"
    samples = interleaved(
        {name: lambda name=name: call(name) for name in names},
        rounds=2,
        warmup=1,
        device=CPU,
        progress=lambda done, calls: seen.append((done, calls)),
        clock=clock,
    )
    rounds = [order[start : start + 3] for start in (0, 3, 6)]
    assert [sorted(each) for each in rounds] == [list(names)] * 3
    for name in names:  # the place of its call, in milliseconds
        assert samples[name] == pytest.approx(
            [3 + 1 + rounds[1].index(name), 6 + 1 + rounds[2].index(name)]
        )
    assert seen == [(done, 9) for done in range(1, 10)]


def test_no_call_always_follows_the_same_other_one() -> None:
    """Over 60 rounds each of six is first about ten times, and has every other one before it."""
    names = list("abcdef")
    rounds = [order_of_round(names, number) for number in range(60)]
    assert rounds == [order_of_round(names, number) for number in range(60)]
    assert rounds != [order_of_round(names, number, seed=1) for number in range(60)]
    before = {name: {r[r.index(name) - 1] for r in rounds if r[0] != name} for name in names}
    assert all(before[name] == set(names) - {name} for name in names)
    assert all(4 <= sum(r[0] == name for r in rounds) <= 18 for name in names)


def test_a_call_that_fails_is_told_and_leaves_the_others() -> None:
    told, runs = [], iter(range(10))

    def breaks() -> None:
        if next(runs) == 2:
            raise RuntimeError("gone")

    calls = {"a": lambda: None, "b": breaks}
    samples = interleaved(
        calls, rounds=3, warmup=1, device=CPU, failed=lambda name, error: told.append((name, error))
    )
    assert list(samples) == ["a"]
    assert len(samples["a"]) == 3
    assert [(name, str(error)) for name, error in told] == [("b", "gone")]
    with pytest.raises(RuntimeError, match="gone"):
        interleaved({"b": breaks_now}, rounds=1, warmup=0, device=CPU)


def breaks_now() -> None:
    raise RuntimeError("gone")


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_every_accelerator_is_waited_for_before_and_after(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without, a time is that of asking."""
    seen: list[str] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: seen.append(device.type))
    calls = {"a": lambda: seen.append("call")}
    interleaved(calls, rounds=1, warmup=0, device=torch.device(kind))
    assert seen == [kind, "call", kind]
    seen.clear()
    interleaved(calls, rounds=1, warmup=0, device=CPU)
    assert seen == ["call"]


@pytest.mark.parametrize(("rounds", "warmup"), [(0, 0), (1, -1)])
def test_impossible_rounds_are_refused(rounds: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        interleaved({}, rounds=rounds, warmup=warmup, device=CPU)


class Probe(nn.Module):
    """Notes how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.channels_last = images.is_contiguous(memory_format=torch.channels_last)
        self.mode = self.training, torch.is_grad_enabled()
        self.output: Tensor = self.convolution(images)
        return self.output


def test_forward_runs_in_evaluation_mode_and_in_the_given_layout() -> None:
    probe = Probe().train()
    forward_call(probe, torch.randn(1, 3, 8, 8), CHANNELS_LAST)()
    assert probe.mode == (False, False)
    assert probe.channels_last
    assert probe.convolution.weight.is_contiguous(memory_format=torch.channels_last)


def test_autocast_reaches_the_forward_pass() -> None:
    probe = Probe()
    forward_call(probe, torch.randn(1, 3, 8, 8), Precision("bfloat16"))()
    assert probe.output.dtype == torch.bfloat16


def test_a_head_is_timed_on_features() -> None:
    features = Features(*(torch.randn(1, c, 4, 4) for c in CHANNELS))
    output = forward_call(TinyHead(), features, CHANNELS_LAST)()
    assert output.logits.shape == (1, 3, 4, 4)
