"""One function on every path: both forms, every size, batch, layout and mode, eager and compiled.

Nothing of the product is set for these tests. What a head chooses by size lies between the sizes
here: dilations 12, 24 and 36 that leave the map, a map that a grid does not divide or that is
smaller than it, sides without a second pixel, padding, one and several blocks of queries. What it
chooses by its widths (a fused kernel of attention) has a variant each.
"""

import ast
import inspect
import itertools
import pkgutil
from collections.abc import Iterable, Sequence
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

import heads
from heads import HEADS, ContextHead, Features
from heads.blocks import TwoForms
from tests.heads.small import (
    IMPLEMENTATIONS,
    ONE_CELL,
    VARIANTS,
    scalar_loss,
    small_features,
    small_head,
    tensors,
)

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Height, width and a batch; every batch and layout, at sizes up to 24 x 24, is for the slow suite.
SIZES = [
    (1, 1, 3),
    (2, 3, 2),
    (7, 5, 1),
    (24, 24, 1),
    (23, 30, 2),
    (33, 29, 1),
]
LARGE = (65, 65, 1)
EVERY_BATCH = [(h, w, batch) for h, w, _ in SIZES[:4] for batch in (1, 2, 3)]

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

Computed = dict[str, list[Tensor] | dict[str, Tensor]]


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


def features_of(size: tuple[int, int, int], layout: str) -> Features:
    height, width, batch = size
    stages = small_features(height, width, batch=batch, dtype=torch.float64)
    return Features(*(s.contiguous(memory_format=LAYOUTS[layout]) for s in stages))


def computed(call: nn.Module, head: ContextHead, features: Features) -> Computed:
    """Outputs of `call`, which is `head` or made of it, every gradient, and statistics after it."""
    stages = Features(*(stage.detach().requires_grad_() for stage in features))
    output = call(stages)
    leaves = [*stages, *head.parameters()]
    gradients = torch.autograd.grad(
        scalar_loss(output), leaves, allow_unused=True, materialize_grads=True
    )
    return {
        "outputs": [tensor.detach() for tensor in tensors(output)],
        "gradients of the stages": list(gradients[: len(stages)]),
        "gradients of the parameters": list(gradients[len(stages) :]),
        "state": head.state_dict(),
    }


def eager(
    variant: str, implementation: str, size: tuple[int, int, int], layout: str, training: bool
) -> Computed:
    head = small_head(variant, implementation).double().train(training)
    if layout == "channels_last":
        head = head.to(memory_format=torch.channels_last)
    return computed(head, head, features_of(size, layout))


def check_forms(
    variant: str, size: tuple[int, int, int], training: bool, layout: str = "contiguous"
) -> None:
    expected = eager(variant, "reference", size, "contiguous", training)
    torch.testing.assert_close(eager(variant, "fast", size, layout, training), expected)


@every_variant
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_both_forms_are_one_function(variant: str, size: tuple[int, int, int]) -> None:
    """In float64, with weights as sharp as trained ones: outputs, all gradients, statistics.

    The layouts take turns; the slow suite has each with everything.
    """
    if trainable(variant, size):
        check_forms(variant, size, True, list(LAYOUTS)[size[0] % 2])
    check_forms(variant, size, False, list(LAYOUTS)[1 - size[0] % 2])


@every_variant
def test_both_forms_are_one_function_on_a_large_map(variant: str) -> None:
    """Without gradients, which take seconds there: more than four thousand pixels."""
    fast, reference = (small_head(variant, form).double().eval() for form in IMPLEMENTATIONS)
    features = features_of(LARGE, "contiguous")
    with torch.no_grad():
        torch.testing.assert_close(tensors(fast(features)), tensors(reference(features)))


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "size", "training"), modes(VARIANTS, EVERY_BATCH), ids=str)
def test_both_forms_are_one_function_for_every_batch(
    variant: str, size: tuple[int, int, int], training: bool
) -> None:
    expected = eager(variant, "reference", size, "contiguous", training)
    others = [*itertools.product(IMPLEMENTATIONS, LAYOUTS)]
    others.remove(("reference", "contiguous"))
    for form, layout in others:
        torch.testing.assert_close(eager(variant, form, size, layout, training), expected)


def check_compiled(
    variant: str,
    implementation: str,
    size: tuple[int, int, int],
    training: bool,
) -> None:
    head = small_head(variant, implementation).double().train(training)
    expected = eager(variant, implementation, size, "contiguous", training)
    torch.compiler.reset()
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    got = computed(compiled, head, features_of(size, "contiguous"))  # type: ignore[arg-type]
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("variant", ["pyramid_oc", "aspp", "encnet"])
def test_compiled_is_the_same_function(variant: str) -> None:
    """In one graph; cells of attention, dilations that leave the map, distances. Seconds each.

    The slow suite has every head at every size, and every variant, with gradients.
    """
    head, features = small_head(variant).double().eval(), features_of((24, 24, 1), "contiguous")
    torch.compiler.reset()
    compiled = torch.compile(head, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(tensors(compiled(features)), tensors(head(features)))


@pytest.mark.slow
@every_variant
def test_every_variant_compiled_is_the_same_function(variant: str) -> None:
    """In training, whose gradients need all of it. Seconds each."""
    check_compiled(variant, "fast", (23, 30, 2), training=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "size", "training"), modes(HEADS, [(7, 5, 1), (33, 29, 1)]), ids=str
)
def test_every_head_compiled_is_the_same_function_at_every_size(
    variant: str, size: tuple[int, int, int], training: bool
) -> None:
    check_compiled(variant, "fast", size, training)


@every_variant
@every_form
@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_autocast_is_near(variant: str, implementation: str, training: bool) -> None:
    """Of the formula in float64, with weights as sharp as trained ones.

    bfloat16 keeps 8 bits: 0.4 % a rounding, of which a head chains about ten. In training, batch
    norm over nearly equal regions or groups magnifies that, in both forms alike.
    """
    exact = small_head(variant, "reference").double().train(training)
    with torch.no_grad():
        expected = tensors(exact(small_features(dtype=torch.float64)))

    def error(form: str) -> float:
        head = small_head(variant, form).train(training)
        with torch.autocast("cpu", torch.bfloat16):
            output = head(small_features())
            loss = scalar_loss(output)
        gradients = torch.autograd.grad(loss, list(head.context.parameters()))
        assert all(gradient.isfinite().all() for gradient in gradients)
        got = [tensor.detach().double() for tensor in tensors(output)]
        return max(float((a - b).norm() / b.norm()) for a, b in zip(got, expected, strict=True))

    limit = 0.02 + 2 * error("reference") if training else 0.03
    assert error(implementation) < limit


def classes_of_heads() -> list[type]:
    modules = [
        import_module(f"heads.{found.name}") for found in pkgutil.iter_modules(heads.__path__)
    ]
    found = [value for module in modules for value in vars(module).values()]
    return [value for value in found if inspect.isclass(value) and issubclass(value, TwoForms)]


def replaced(part: type) -> list[str]:
    """What `part` defines although a class below it that has forms defines it, too."""
    bases = [base for base in part.__mro__[1:] if {"_fast", "_reference"} & {*vars(base)}]
    own = {name for name, value in vars(part).items() if callable(value)} - {"__init__"}
    return [f"{base.__name__}.{name}" for base in bases for name in own & {*vars(base)}]


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
    for part in {part for part in classes_of_heads() if hasattr(part, "_fast")}:
        for form, other in (("_fast", "_reference"), ("_reference", "_fast")):
            source = inspect.cleandoc("\n" + inspect.getsource(getattr(part, form)))
            called = {n.attr for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)}
            assert other not in called, part.__name__
