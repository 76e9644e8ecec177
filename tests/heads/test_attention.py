"""Which way the fast form of dense attention goes; what it computes is tested with every head."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from heads import attention
from heads.attention import DenseAttention


def maps(key_channels: int, value_channels: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    widths = (key_channels, key_channels, value_channels)
    query, key, value = (torch.randn(2, c, side, side, generator=generator) for c in widths)
    return query, key, value


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the queries that reached the fused kernel."""
    calls: list[torch.Size] = []
    kernel = F.scaled_dot_product_attention

    def noted(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
        calls.append(query.shape)
        return kernel(query, key, value, scale=scale)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    return calls


@pytest.mark.parametrize("side", [1, 7, 22, 23])
@pytest.mark.parametrize("key_channels", [6, 4])
def test_widths_alone_decide_the_way(
    key_channels: int, side: int, fused_calls: list[torch.Size]
) -> None:
    """Fused with equal widths and in blocks with others: 22 x 22 pixels are one, 23 x 23 two."""
    query, key, value = maps(key_channels, 6, side)
    expected = DenseAttention("reference")(query, key, value)
    torch.testing.assert_close(DenseAttention("fast")(query, key, value), expected)
    assert 22**2 < attention.QUERIES_AT_ONCE < 23**2
    fused = torch.Size((2, 1, side**2, 6))
    assert fused_calls == ([fused] if key_channels == 6 else [])


def test_a_shared_transform_is_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Query and key are one map in base-OC: two layouts, of it and of the value, are enough."""
    laid_out: list[Tensor] = []
    original = attention._for_kernels

    def noted(x: Tensor) -> Tensor:
        laid_out.append(x)
        return original(x)

    monkeypatch.setattr(attention, "_for_kernels", noted)
    query, _, value = maps(6, 6, 7)
    gathered = DenseAttention("fast")(query, query, value)
    assert [x.data_ptr() for x in laid_out] == [query.data_ptr(), value.data_ptr()]
    torch.testing.assert_close(gathered, DenseAttention("reference")(query, query, value))


def test_scale_multiplies_the_scores() -> None:
    """Scores of 0 weigh all pixels alike; the default is 1 / sqrt(d)."""
    query, key, value = maps(4, 6, 5)
    mean = value.mean(dim=(2, 3), keepdim=True).expand_as(value)
    torch.testing.assert_close(DenseAttention("reference", scale=0.0)(query, key, value), mean)
    default = DenseAttention("reference")(query, key, value)
    torch.testing.assert_close(DenseAttention("reference", scale=0.5)(query, key, value), default)
