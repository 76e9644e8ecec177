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


@pytest.mark.parametrize("key_channels", [6, 4])
@pytest.mark.parametrize("pairs_at_once", [0, 7**4 - 1, 7**4])
def test_every_way_gives_the_same(
    key_channels: int,
    pairs_at_once: int,
    fused_calls: list[torch.Size],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fused with equal widths, in blocks with others, and as the formula stands on small maps."""
    monkeypatch.setattr(attention, "SMALL_MATRIX", pairs_at_once)
    monkeypatch.setattr(attention, "QUERIES_AT_ONCE", 10)
    query, key, value = maps(key_channels, 6, 7)
    expected = DenseAttention("reference")(query, key, value)
    torch.testing.assert_close(DenseAttention("fast")(query, key, value), expected)
    large = pairs_at_once < 7**4
    assert fused_calls == ([torch.Size((2, 1, 49, 6))] if large and key_channels == 6 else [])


def test_compiled_code_does_not_depend_on_the_size(
    fused_calls: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SMALL_MATRIX", 10**9)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    DenseAttention("fast")(*maps(6, 6, 7))
    assert len(fused_calls) == 1


def test_a_shared_transform_is_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Query and key are one map in base-OC: two layouts, of it and of the value, are enough."""
    laid_out: list[Tensor] = []
    original = attention._pixels_first

    def noted(x: Tensor) -> Tensor:
        laid_out.append(x)
        return original(x)

    monkeypatch.setattr(attention, "_pixels_first", noted)
    query, _, value = maps(6, 6, 7)
    gathered = DenseAttention("fast")(query, query, value)
    assert [x is query for x in laid_out] == [True, False]
    torch.testing.assert_close(gathered, DenseAttention("reference")(query, query, value))


def test_scale_multiplies_the_scores() -> None:
    """Scores of 0 weigh all pixels alike; the default is 1 / sqrt(d)."""
    query, key, value = maps(4, 6, 5)
    mean = value.mean(dim=(2, 3), keepdim=True).expand_as(value)
    torch.testing.assert_close(DenseAttention("reference", scale=0.0)(query, key, value), mean)
    default = DenseAttention("reference")(query, key, value)
    torch.testing.assert_close(DenseAttention("reference", scale=0.5)(query, key, value), default)
