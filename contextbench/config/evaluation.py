"""How a trained model is scored: in views, each with a name and settings of its own."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from contextbench.config.frozen import LATER, ROUNDING, Factor, Frozen, Side, Size

SINGLE = "single"
"""The view of settings that have no name."""


TRIMAP = (1, 2, 4, 8, 16, 32)
"""Widths of trimaps, in pixels, of a view that says no others."""

BandWidth = Annotated[int, Field(ge=1, le=1024)]  # pixels


def _ascending(widths: tuple[int, ...]) -> tuple[int, ...]:
    if sorted(set(widths)) != list(widths):
        raise ValueError(f"widths must ascend, not {list(widths)}")
    return widths


Widths = Annotated[tuple[BandWidth, ...], AfterValidator(_ascending), Field(max_length=16)]


class BoundaryConfig(Frozen):
    """Bands along boundaries of masks: a share of the image's diagonal, and widths in pixels."""

    diagonal: Annotated[float, Field(gt=0, le=0.5)] | None = 0.02
    pixels: Widths = ()

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.names:
            raise ValueError("boundary needs diagonal, pixels or both")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Of the bands, in order."""
        share = () if self.diagonal is None else (f"{100 * self.diagonal:g} %",)
        return (*share, *(f"{width} px" for width in self.pixels))


class CorruptConfig(Frozen):
    """How every image is made worse before it is seen; 1 is the mildest of five strengths."""

    kind: Literal["noise", "blur", "brightness", "jpeg"]
    strength: Annotated[int, Field(ge=1, le=5)]


WindowBatch = Annotated[int, Field(ge=1, le=4096)] | Literal["auto"]


def _or_default(default: Any) -> BeforeValidator:
    """true stands for the default of an option, false for none."""
    return BeforeValidator(lambda value: default[value] if isinstance(value, bool) else value)


class EvaluateConfig(Frozen):
    """How images are scored: whole, or in windows that overlap where `stride` < `window`.

    `size` first resizes every image to a fixed height and width, `short_side` to a length of the
    shorter side (the longer one at most `long_side`); `scales` are relative to that. Predictions
    are always compared at the size of the mask. `average` is what windows, scales and mirror images
    are averaged in. `split` is that of the dataset unless it is given.

    `like: mmseg` computes it as mmsegmentation does: bytes are resized as by OpenCV, scales are
    relative to the image as it is, sides are padded up to multiples of `size_divisor`, logits of
    windows are averaged, logits are resized to the image that the model saw and then to the mask.

    `window_batch` is how many windows of a view go through the model at once: it changes memory and
    time, and scores by rounding only. `auto` are as many as fit a GPU, and one on a CPU.

    `corrupt` makes images worse. The rest is counted beside the pixels of classes: which class is
    taken for which, how often the model is right for how sure it is, and what is right near the
    boundaries of masks.
    """

    mode: Literal["whole", "slide"] = "whole"
    scales: tuple[Factor, ...] = Field((1.0,), min_length=1, max_length=100)
    flip: bool = False
    window: Size | None = Field(None, json_schema_extra=LATER)
    stride: Size | None = Field(None, json_schema_extra=LATER)
    window_batch: WindowBatch = Field("auto", json_schema_extra=ROUNDING)
    average: Literal["probabilities", "logits"] = Field("probabilities", json_schema_extra=LATER)
    size: Size | None = Field(None, json_schema_extra=LATER)
    short_side: Side | None = Field(None, json_schema_extra=LATER)
    long_side: Side | None = Field(None, json_schema_extra=LATER)
    split: str | None = Field(None, min_length=1, json_schema_extra=LATER)
    like: Literal["mmseg"] | None = Field(None, json_schema_extra=LATER)
    size_divisor: Side | None = Field(None, json_schema_extra=LATER)
    corrupt: CorruptConfig | None = Field(None, json_schema_extra=LATER)
    # Counted beside the pixels of classes, for each image.
    confusion: bool = Field(False, json_schema_extra=LATER)
    calibration: bool = Field(False, json_schema_extra=LATER)
    boundary: Annotated[BoundaryConfig | None, _or_default({True: {}, False: None})] = Field(
        None, json_schema_extra=LATER
    )
    trimap: Annotated[Widths, _or_default({True: TRIMAP, False: ()})] = Field(
        (), json_schema_extra=LATER
    )

    @property
    def scoring(self) -> "EvaluateConfig":
        """The same without what is counted beside the pixels of classes."""
        defaults = {name: type(self).model_fields[name].default for name in COUNTING}
        return self.model_copy(update=defaults)

    @property
    def measured(self) -> "EvaluateConfig":
        """The same without what changes nothing but rounding: equal where the same is measured."""
        defaults = {name: type(self).model_fields[name].default for name in COMPUTING}
        return self.model_copy(update=defaults)

    @model_validator(mode="after")
    def _windows(self) -> Self:
        if (self.mode == "slide") != (self.window is not None and self.stride is not None):
            raise ValueError("mode slide needs window and stride, and no other mode has them")
        if self.window and self.stride and not _within(self.stride, self.window):
            raise ValueError(
                f"stride {list(self.stride)} must not exceed window {list(self.window)}: pixels "
                "between windows would have no prediction"
            )
        if self.mode != "slide" and self.window_batch != "auto":
            raise ValueError("window_batch is of mode slide: there are no other windows")
        return self

    @model_validator(mode="after")
    def _one_resize(self) -> Self:
        if self.size is not None and self.short_side is not None:
            raise ValueError("size and short_side exclude each other")
        if self.long_side is not None and self.short_side is None:
            raise ValueError("long_side limits what short_side asks for, which is not set")
        if self.size_divisor is not None and self.like is None:
            raise ValueError("size_divisor is of like: mmseg, which is not set")
        if self.like is not None and self.average != "probabilities":
            raise ValueError("like: mmseg averages probabilities, and logits of windows")
        return self


def _within(size: Size, limit: Size) -> bool:
    return size[0] <= limit[0] and size[1] <= limit[1]


SETTINGS = tuple(EvaluateConfig.model_fields)
COUNTING = ("confusion", "calibration", "boundary", "trimap")
"""Settings that say what is counted beside the pixels of classes."""
COMPUTING = tuple(
    name
    for name, field in EvaluateConfig.model_fields.items()
    if field.json_schema_extra == ROUNDING
)
"""Settings that change nothing but rounding, and are in no fingerprint."""
NESTED = ("boundary", "corrupt")
"""Settings that have keys of their own, as views have."""


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
    views = [
        key
        for key, value in evaluate.items()
        if isinstance(value, Mapping | EvaluateConfig) and key not in NESTED
    ]
    settings = [key for key in evaluate if key not in views]
    if not views:
        return {SINGLE: evaluate}
    if settings:
        raise ValueError(
            f"evaluate: {settings[0]} is a setting and {views[0]} a view: where views have names, "
            f"settings stand in one of them, as in evaluate.{views[0]}.{settings[0]}"
        )
    return evaluate
