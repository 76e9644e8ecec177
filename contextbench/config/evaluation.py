"""How a trained model is scored: in views, each with a name and settings of its own."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from contextbench.config.frozen import LATER, Factor, Frozen, Side, Size

SINGLE = "single"
"""The view of settings that have no name."""


class EvaluateConfig(Frozen):
    """How images are scored: whole, or in windows that overlap where `stride` < `window`.

    `size` first resizes every image to a fixed height and width, `short_side` to a length of the
    shorter side (the longer one at most `long_side`); `scales` are relative to that. Predictions
    are always compared at the size of the mask. `average` is what windows, scales and mirror images
    are averaged in. `split` is that of the dataset unless it is given.
    """

    mode: Literal["whole", "slide"] = "whole"
    scales: tuple[Factor, ...] = Field((1.0,), min_length=1, max_length=100)
    flip: bool = False
    window: Size | None = Field(None, json_schema_extra=LATER)
    stride: Size | None = Field(None, json_schema_extra=LATER)
    average: Literal["probabilities", "logits"] = Field("probabilities", json_schema_extra=LATER)
    size: Size | None = Field(None, json_schema_extra=LATER)
    short_side: Side | None = Field(None, json_schema_extra=LATER)
    long_side: Side | None = Field(None, json_schema_extra=LATER)
    split: str | None = Field(None, min_length=1, json_schema_extra=LATER)

    @model_validator(mode="after")
    def _windows(self) -> Self:
        if (self.mode == "slide") != (self.window is not None and self.stride is not None):
            raise ValueError("mode slide needs window and stride, and no other mode has them")
        if self.window and self.stride and not _within(self.stride, self.window):
            raise ValueError(
                f"stride {list(self.stride)} must not exceed window {list(self.window)}: pixels "
                "between windows would have no prediction"
            )
        return self

    @model_validator(mode="after")
    def _one_resize(self) -> Self:
        if self.size is not None and self.short_side is not None:
            raise ValueError("size and short_side exclude each other")
        if self.long_side is not None and self.short_side is None:
            raise ValueError("long_side limits what short_side asks for, which is not set")
        return self


def _within(size: Size, limit: Size) -> bool:
    return size[0] <= limit[0] and size[1] <= limit[1]


SETTINGS = tuple(EvaluateConfig.model_fields)


def checked_view(name: str) -> str:
    """`name`. Raises ValueError unless it can be that of a view: part of a file name and a key."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name) is None:
        raise ValueError("views are called by up to 64 letters, digits, - and _")
    if name in SETTINGS:
        raise ValueError(f"{name} is a setting, and cannot be the name of a view")
    return name


ViewName = Annotated[str, AfterValidator(checked_view)]


def as_views(evaluate: Any) -> Any:
    """Views by name; settings alone are those of the view `single`, which files may leave unsaid.

    Raises ValueError where settings stand beside views. What is no mapping stays as it is.
    """
    if not isinstance(evaluate, Mapping):
        return evaluate
    views = [key for key, value in evaluate.items() if isinstance(value, Mapping | EvaluateConfig)]
    settings = [key for key in evaluate if key not in views]
    if not views:
        return {SINGLE: evaluate}
    if settings:
        raise ValueError(
            f"evaluate: {settings[0]} is a setting and {views[0]} a view: where views have names, "
            f"settings stand in one of them, as in evaluate.{views[0]}.{settings[0]}"
        )
    return evaluate
