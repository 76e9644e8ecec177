"""One function on every path: both forms, every size, batch, layout and mode, eager and compiled.

Nothing of the product is set for these tests. What a head chooses by size lies between the sizes
here: dilations 12, 24 and 36 that leave the map, a map that a grid does not divide or that is
smaller than it, sides without a second pixel, padding, one and several blocks of queries. What it
chooses by its widths (a fused kernel of attention) has a variant each.
"""

import inspect
import itertools
import pkgutil
from collections.abc import Iterable, Sequence
from importlib import import_module

import pytest
import torch
from torch import Tensor

import heads
from heads import HEADS, Features, contract
from heads.blocks import TwoForms
from heads.contract import (
    LAYOUTS,
    SIZES,
    Broken,
    eager,
    forms_are_apart,
    forms_are_one_function,
    replaced,
)
from tests.cases import quick
from tests.heads.small import (
    IMPLEMENTATIONS,
    ONE_CELL,
    VARIANTS,
    small_features,
    subject,
    tensors,
)

# Every batch and layout, at sizes up to 24 x 24, is for the slow suite.
EVERY_BATCH = [(h, w, batch) for h, w, _ in SIZES[:4] for batch in (1, 2, 3)]

every_variant = pytest.mark.parametrize("variant", quick(VARIANTS, HEADS))
every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def trainable(variant: str, size: tuple[int, int, int]) -> bool:
    """Batch norm needs two values of a channel: pixels, images, or images of one pooled cell.

    asp_oc attends at half the size, where 2 x 3 pixels are one cell.
    """
    height, width, batch = size
    pixels = (height // 2) * (width // 2) if variant.startswith("asp_oc") else height * width
    return batch > 1 or (variant not in ONE_CELL and pixels > 1)


def modes(
    variants: Iterable[str], sizes: Sequence[tuple[int, int, int]]
) -> list[tuple[str, tuple[int, int, int], bool]]:
    """Every variant at every size in evaluation, and in training where it can be trained."""
    return [
        (variant, size, training)
        for variant, size in itertools.product(variants, sizes)
        for training in (True, False)
        if not training or trainable(variant, size)
    ]


@every_variant
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_both_forms_are_one_function(variant: str, size: tuple[int, int, int]) -> None:
    """In float64, with weights as sharp as trained ones: outputs, all gradients, statistics.

    The layouts take turns; the slow suite has each with everything.
    """
    if trainable(variant, size):
        forms_are_one_function(subject(variant), size, True, list(LAYOUTS)[size[0] % 2])
    forms_are_one_function(subject(variant), size, False, list(LAYOUTS)[1 - size[0] % 2])


@every_variant
def test_both_forms_are_one_function_on_a_large_map(variant: str) -> None:
    contract.forms_are_one_function_on_a_large_map(subject(variant))


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "size", "training"), modes(VARIANTS, EVERY_BATCH), ids=str)
def test_both_forms_are_one_function_for_every_batch(
    variant: str, size: tuple[int, int, int], training: bool
) -> None:
    expected = eager(subject(variant), "reference", size, "contiguous", training)
    others = [*itertools.product(IMPLEMENTATIONS, LAYOUTS)]
    others.remove(("reference", "contiguous"))
    for form, layout in others:
        torch.testing.assert_close(eager(subject(variant), form, size, layout, training), expected)


@pytest.mark.parametrize("variant", quick(("pyramid_oc", "aspp", "encnet"), ("pyramid_oc",)))
def test_compiled_is_the_same_function(variant: str) -> None:
    """In one graph; cells of attention, dilations that leave the map, distances. Seconds each.

    The slow suite has every head at every size, and every variant, with gradients.
    """
    contract.compiles(subject(variant))


@pytest.mark.slow
@every_variant
def test_every_variant_compiled_is_the_same_function(variant: str) -> None:
    """In training, whose gradients need all of it. Seconds each."""
    contract.compiles_with_gradients(subject(variant), "fast", (23, 30, 2), training=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "size", "training"), modes(HEADS, [(7, 5, 1), (33, 29, 1)]), ids=str
)
def test_every_head_compiled_is_the_same_function_at_every_size(
    variant: str, size: tuple[int, int, int], training: bool
) -> None:
    contract.compiles_with_gradients(subject(variant), "fast", size, training)


@every_variant
@pytest.mark.parametrize("implementation", quick(IMPLEMENTATIONS, ("fast",)))
@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_autocast_is_near(variant: str, implementation: str, training: bool) -> None:
    contract.bfloat16_is_near(subject(variant), implementation, training)


def finite(variant: str, implementation: str, dtype: torch.dtype, times: float) -> bool:
    """Whether all outputs are, of features so many times those of the other tests."""
    head = subject(variant).built(implementation, sharp=dtype == torch.bfloat16).eval()
    large = Features(*(times * stage for stage in small_features()))
    with torch.no_grad(), torch.autocast("cpu", dtype):
        return all(bool(each.isfinite().all()) for each in tensors(head(large)))


@every_variant
@every_form
def test_large_features_are_finite_in_bfloat16(variant: str, implementation: str) -> None:
    assert finite(variant, implementation, torch.bfloat16, 1e3)


@every_form
@pytest.mark.parametrize(
    "variant", ["non_local", "dnlnet", "gcnet", "emanet", "deeplabv3plus", "upernet"]
)
def test_large_features_are_finite_in_float16(variant: str, implementation: str) -> None:
    """Which ends at 65504: weights as they start, as a product of two features is in its range."""
    assert finite(variant, implementation, torch.float16, 1e2)


def classes_of_heads() -> list[type]:
    modules = [
        import_module(f"heads.{found.name}") for found in pkgutil.iter_modules(heads.__path__)
    ]
    found = [value for module in modules for value in vars(module).values()]
    return [value for value in found if inspect.isclass(value) and issubclass(value, TwoForms)]


def test_no_class_replaces_what_a_form_of_its_base_may_call() -> None:
    """A form that calls a method of its object calls that of a subclass: compose instead."""
    parts = set(classes_of_heads())
    assert {part.__name__ for part in parts} >= {"DenseAttention", "CellAttention", "Encoding"}
    assert {part.__name__: replaced(part) for part in parts if replaced(part)} == {}

    class Cut(heads.attention.DenseAttention):
        def _reference(self, *maps: Tensor) -> Tensor:
            return maps[0]

    assert replaced(Cut) == ["DenseAttention._reference"]


def test_no_form_calls_the_other() -> None:
    for part in classes_of_heads():
        forms_are_apart(part)

    class Calling(heads.attention.DenseAttention):
        def _fast(self, *maps: Tensor) -> Tensor:
            return self._reference(*maps)

    with pytest.raises(Broken, match="Calling replaces DenseAttention"):
        forms_are_apart(Calling)

    class Alone(TwoForms):
        def _fast(self, *maps: Tensor) -> Tensor:
            return self._reference(*maps)

    with pytest.raises(Broken, match="calls _reference"):
        forms_are_apart(Alone)
