"""What images a network of another code base takes: facts, and the configuration they make."""

from typing import Any

from contextbench.config.protocols import InputsConfig
from contextbench.data.transforms import MEAN, STD
from contextbench.interop.facts import Facts
from contextbench.interop.files import ImportedError
from contextbench.interop.literals import UNREADABLE

IMAGENET = InputsConfig(
    order="rgb",
    mean=tuple(255 * each for each in MEAN),
    std=tuple(255 * each for each in STD),
)
CAFFE_MEAN = (102.9801, 115.9465, 122.7717)  # of blue, green and red
CLOSE = 1e-3  # published values are rounded
PLACES = 4  # digits of values that are asked for


def inputs_of(
    facts: Facts,
    usual: InputsConfig = IMAGENET,
    *,
    order: Any = UNREADABLE,
    mean: Any = UNREADABLE,
    std: Any = UNREADABLE,
) -> InputsConfig | None:
    """None for RGB with ImageNet's statistics, which all models here take.

    What is not known is asked for, with what is `usual`. Raises `ImportedError` for no colours.
    """
    chosen = facts.of("inputs", order, usual.order)
    if chosen not in ("rgb", "bgr"):
        raise ImportedError(f"import: inputs are {chosen}: rgb and bgr can be taken over")
    reverse = chosen != usual.order
    published = [each[::-1] if reverse else each for each in (usual.mean, usual.std)]
    rounded = [tuple(round(each, PLACES) for each in values) for values in published]
    found = InputsConfig(
        order=chosen,
        mean=_three("mean", facts.of("mean", mean, rounded[0])),
        std=_three("std", facts.of("std", std, rounded[1])),
    )
    return None if _is_imagenet(found) else found


def _three(name: str, values: Any) -> tuple[float, float, float]:
    numbers = values if isinstance(values, tuple) else ()
    good = len(numbers) == 3 and all(isinstance(each, int | float) for each in numbers)
    if not good or (name == "std" and min(numbers) <= 0):
        raise ImportedError(f"import: {name} is {values}: expected three numbers in 0 .. 255")
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]))


def _is_imagenet(found: InputsConfig) -> bool:
    given, wanted = (*found.mean, *found.std), (*IMAGENET.mean, *IMAGENET.std)
    close = [abs(a - b) < CLOSE for a, b in zip(given, wanted, strict=True)]
    return found.order == "rgb" and all(close)
