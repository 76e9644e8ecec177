"""How many windows a GPU takes at once, by a formula that can be written out."""

import pytest
import torch
from torch import Tensor, nn

from contextbench.measure.fitting import fitting, windows_within
from contextbench.models.precision import Precision

FLOAT = 4


class Wide(nn.Module):
    """One convolution: weights, images and output are all there is."""

    def __init__(self, *, needs_labels: bool = False) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 1, bias=False)
        self.needs_labels = needs_labels

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        assert (labels is None) == (not self.needs_labels)
        return self.layer(images)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("windows", [1, 2, 7])
def test_as_many_fit_as_the_bytes_of_one_go_into_the_budget(windows: int, n: int) -> None:
    """One of 16 x 16 takes (3 + 8) x 256 floats; the 24 weights are there once."""
    weights, each = FLOAT * 3 * 8, FLOAT * (3 + 8) * 256 * n
    budget = weights + windows * each
    shape = (n, 3, 16, 16)
    exact, below = (
        windows_within(bytes_, Wide(), shape, precision=Precision())
        for bytes_ in (budget, budget - 1)
    )
    assert (exact, below) == (windows, max(1, windows - 1))


def test_a_model_that_needs_labels_is_given_some() -> None:
    model = Wide(needs_labels=True)
    assert windows_within(10**6, model, (1, 3, 16, 16), precision=Precision()) > 1


def test_a_cpu_takes_one_window_at_a_time() -> None:
    assert fitting(torch.device("cpu"), Precision()) is None
