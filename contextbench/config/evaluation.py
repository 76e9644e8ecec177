"""How a trained model is scored."""

from typing import Literal, Self

from pydantic import Field, model_validator

from contextbench.config.frozen import LATER, Factor, Frozen, Side, Size


class EvaluateConfig(Frozen):
    """How images are scored: whole, or in windows that overlap where `stride` < `window`.

    `size` first resizes every image to a fixed height and width, `short_side` to a length of the
    shorter side (the longer one at most `long_side`); `scales` are relative to that. Predictions
    are always compared at the size of the mask. `average` is what windows and views are averaged
    in.
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
