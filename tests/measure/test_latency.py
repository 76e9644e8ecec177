import pytest
import torch
from torch import Tensor, nn

from contextbench.measure.latency import (
    forward_call,
    interleaved,
    train_call,
)
from contextbench.precision import Precision
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


def test_rounds_are_interleaved_and_warm_up_is_dropped() -> None:
    clock, order, seen = Clock(), [], []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        clock.pass_(seconds * len(order))  # every call takes longer than the one before

    samples = interleaved(
        {"a": lambda: call("a", 0.001), "b": lambda: call("b", 0.002)},
        rounds=2,
        warmup=1,
        device=CPU,
        progress=lambda done, calls: seen.append((done, calls)),
        clock=clock,
    )
    assert "".join(order) == "ababab"
    assert samples["a"] == pytest.approx([3, 5])  # the third and the fifth call, in milliseconds
    assert samples["b"] == pytest.approx([8, 12])
    assert seen == [(done, 6) for done in range(1, 7)]


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


def test_a_training_call_is_one_step_of_gradient_descent() -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    images, labels = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    step = train_call(
        model, lambda output, y: (output - y).sum(), optimizer, images, labels, Precision()
    )
    step()
    step()  # gradients are replaced, not added: each step subtracts 0.25 x
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.5, 0.0]]))
    assert model.training
