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


def strides(shape: Shape) -> tuple[int, ...]:
    return shape.drawn(CPU, torch.float32).stride()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_operands_lie_in_memory_as_in_the_pass(layout: torch.memory_format) -> None:
    """As torch lays them out when the module really runs."""
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1)).eval()
    x = torch.randn(2, 3, 9, 8)
    seen: list[tuple[tuple[int, ...], ...]] = []

    def note(convolution: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(convolution, nn.Conv2d)
        seen.append((given[0].stride(), convolution.weight.stride()))

    found = [
        tuple(strides(a) for a in operator.arguments if isinstance(a, Shape))
        for operator in products(module, x, layout=layout)
    ]
    run = module.to(memory_format=layout)
    for convolution in (run[0], run[2]):
        convolution.register_forward_pre_hook(note)
    run(x.contiguous(memory_format=layout))
    assert [pair[0] for pair in found] == [pair[0] for pair in seen]
    assert found[0] == seen[0]  # of a kernel of 1 x 1 strides say nothing
    names = {
        layout for operator in products(module, x, layout=layout) for layout in operator.layouts
    }
    assert ("channels_last" in names) == (layout is torch.channels_last)


def test_a_transposed_operand_is_drawn_transposed() -> None:
    class Transposed(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a @ b.transpose(1, 2)

    (operator,) = products(Transposed(), torch.empty(2, 5, 7), torch.empty(2, 3, 7))
    first, second = operator.arguments
    assert str(operator) == "bmm 2x5x7 2x7x3 (axes 0 2 1)"
    assert (strides(first), strides(second)) == ((35, 7, 1), (21, 1, 7))
    output = operator_call(operator, CPU, Precision())()
    assert isinstance(output, torch.Tensor)
    assert output.shape == (2, 5, 3)


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        (torch.empty(2, 3, 4, 5), Shape((2, 3, 4, 5))),
        (
            torch.empty(2, 3, 4, 5, memory_format=torch.channels_last),
            Shape((2, 3, 4, 5), (0, 2, 3, 1)),
        ),
        (torch.empty(4, 5).t(), Shape((5, 4), (1, 0))),
        (torch.empty(1, 5).t(), Shape((5, 1))),  # one value has no place
        (torch.empty(1, 4, 5).expand(2, 4, 5), Shape((2, 4, 5))),  # nor one that is repeated
        (torch.empty(8, 10)[::2, ::2], Shape((4, 5))),  # a part of a larger tensor
    ],
)
def test_the_order_of_axes_is_that_of_strides(tensor: torch.Tensor, shape: Shape) -> None:
    assert Shape.of(tensor) == shape
