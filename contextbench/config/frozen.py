"""What files of settings are made of: frozen models, and numbers within their limits."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_serializer

from contextbench.system.plugins import Plugin

LARGEST_SCALE = 100.0  # of images, against their own size
LARGEST_SIDE = 2**16  # pixels
LARGEST_RATE = 1e30  # times the largest `head_lr_factor` still a number in float32
LARGEST_SEED = 2**63 - 1
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Size = tuple[Side, Side]  # height, width in pixels
Positive = Annotated[int, Field(ge=1, le=10**9)]
Weight = Annotated[float, Field(ge=0, le=1e6)]  # of a loss term, of a class
Level = Annotated[float, Field(ge=0, le=255)]  # of a channel of images
Deviation = Annotated[float, Field(gt=0, le=1e6)]  # of the same
Factor = Annotated[float, Field(gt=0, le=LARGEST_SCALE)]


class Frozen(BaseModel):
    """What is read from a file: immutable, numbers are finite, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


LATER: dict[str, JsonValue] = {"later": True}
"""Marks options that came after records were published: a fingerprint holds them only where they
are not at their default, which is what the code did before it had them."""

ROUNDING: dict[str, JsonValue] = {"rounding": True}
"""Marks options of how something is computed, which change nothing but rounding: a fingerprint
never holds them."""

FOUND_OUT: dict[str, JsonValue] = {**LATER, "found out": True}
"""Marks what no file states: it is found out where the file is read, and recorded."""


class Plugged(Frozen):
    """What may be of a plug-in, and then states which code that is; else there is no such key."""

    plugin: Plugin | None = Field(None, json_schema_extra=FOUND_OUT)

    @model_serializer(mode="wrap")
    def _as_recorded(self, plain: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        content = plain(self)
        if content.get("plugin") is None:
            content.pop("plugin", None)
        return content


def without_later_defaults(model: BaseModel) -> dict[str, Any]:
    """`model` as plain data, less the options marked `LATER` that are at their default.

    And less all that are marked `ROUNDING`.
    """
    content = model.model_dump(mode="json")
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        later = field.json_schema_extra in (LATER, FOUND_OUT)
        if (later and value == field.default) or field.json_schema_extra == ROUNDING:
            content.pop(name, None)
        elif isinstance(value, BaseModel):
            content[name] = without_later_defaults(value)
    return content
