"""Operators of a pass, against what the modules are known to run."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contextbench.measure.counts import count
from contextbench.measure.floors import Operator, Shape, operator_call, products
from contextbench.models.precision import Precision
from heads.attention import DenseAttention

CPU = torch.device("cpu")


def macs(operator: Operator) -> int:
    """Output elements times the length of each sum."""
    first, second = (a.sides for a in operator.arguments[:2] if isinstance(a, Shape))
    output = operator_call(operator, CPU, Precision())()
    assert isinstance(output, torch.Tensor)
    length = first[-1] if operator.name != "convolution" else second[1] * second[2] * second[3]
    return output.numel() * length


def test_operators_carry_their_shapes_and_settings() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    )
    seen = {
        str(operator): times
        for operator, times in products(module, torch.empty(2, 3, 5, 7)).items()
    }
    assert seen == {
        "convolution 2x3x5x7 4x3x3x3 stride 1 padding 2 dilation 2": 1,
        "convolution 2x4x5x7 4x4x1x1 stride 1 padding 0 dilation 1": 2,
    }


def test_an_operator_run_alone_has_the_shape_of_the_original() -> None:
    module = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    x = torch.randn(1, 3, 9, 8)
    (operator,) = products(module, x)
    output = operator_call(operator, CPU, Precision("bfloat16"))()
    assert isinstance(output, torch.Tensor)
    assert output.shape == module(x).shape
    assert output.dtype is torch.bfloat16


@pytest.mark.parametrize("implementation", ["fast", "reference"])
@pytest.mark.parametrize("key_channels", [4, 6])
def test_attention_is_two_products(implementation: str, key_channels: int) -> None:
    """Fused or not: 30 queries with 30 keys, and 30 weights with 30 values."""
    attention = DenseAttention(implementation)  # type: ignore[arg-type]
    query, value = torch.empty(1, key_channels, 5, 6), torch.empty(1, 6, 5, 6)
    seen = products(attention, query, query, value)
    assert sorted(macs(operator) for operator in seen.elements()) == [
        30 * 30 * key_channels,
        30 * 30 * 6,
    ]


def test_operators_have_all_the_multiply_accumulates_that_are_counted() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 8, 3, padding=1)
            self.linear = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pixels = self.convolution(x).flatten(2)  # (N, 8, h w)
            return F.softmax(self.linear(pixels.transpose(1, 2)) @ self.linear.weight, dim=-1)

    x = torch.empty(2, 3, 6, 5)
    operators = products(Mixed(), x)
    assert (
        sum(macs(operator) * times for operator, times in operators.items())
        == count(Mixed(), x).macs
    )
