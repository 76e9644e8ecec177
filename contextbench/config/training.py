"""How a model is trained: what is drawn, the schedule, the losses."""

from typing import Literal, Self

from pydantic import Field, model_validator

from contextbench.config.frozen import LARGEST_RATE, LATER, Factor, Frozen, Positive, Size, Weight


class ScheduleConfig(Frozen):
    """Learning rate times (1 - step / steps) ** power, after a linear warm-up.

    It never falls below `floor`, the part of the initial rate that is left at the end.
    """

    name: Literal["poly"] = "poly"
    power: float = Field(0.9, ge=0, le=100)
    warmup_steps: int = Field(0, ge=0, le=10**9)
    floor: float = Field(0.0, ge=0, le=1, json_schema_extra=LATER)


class OhemConfig(Frozen):
    """Online hard example mining: the mean runs over hard pixels only.

    Hard is a pixel whose true class has a probability below `threshold`; the `keep` hardest of a
    batch always count.
    """

    threshold: float = Field(0.7, gt=0, le=1)
    keep: Positive = 100_000


ClassWeighting = Literal["median_frequency", "inverse_log"]


class LossConfig(Frozen):
    """Cross-entropy of every pixel term, and what may be added to the main one."""

    name: Literal["cross_entropy"] = "cross_entropy"
    class_weights: ClassWeighting | tuple[Weight, ...] | None = Field(None, json_schema_extra=LATER)
    ohem: OhemConfig | None = Field(None, json_schema_extra=LATER)
    label_smoothing: float = Field(0.0, ge=0, lt=1, json_schema_extra=LATER)
    dice: Weight = Field(0.0, json_schema_extra=LATER)  # weight beside the cross-entropy
    lovasz: Weight = Field(0.0, json_schema_extra=LATER)  # weight of Lovasz-Softmax, likewise


class WatchConfig(Frozen):
    """A part of a split that is scored while a model trains, in the settings of the evaluation.

    After every `every` steps and after the last one: `images` of them, evenly spaced over `split`;
    null is the split that is evaluated. Nothing of it reaches the weights but through `keep`.
    """

    every: Positive  # steps
    images: Positive
    split: str | None = None


class TrainConfig(Frozen):
    crop: Size
    scale: tuple[Factor, Factor] = (0.5, 2.0)
    flip: bool = True
    jitter: float = Field(0.0, ge=0, le=1)  # strength of brightness, contrast, saturation changes
    batch: Positive
    steps: Positive
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0, le=LARGEST_RATE)
    momentum: float = Field(0.9, ge=0, lt=1)  # SGD only
    weight_decay: float = Field(5e-4, ge=0, le=1e4)
    schedule: ScheduleConfig = ScheduleConfig()
    head_lr_factor: float = Field(10.0, gt=0, le=1e4)
    clip_norm: float | None = Field(None, gt=0, le=1e12)
    loss: LossConfig = LossConfig()
    rotate: float = Field(0.0, ge=0, le=180, json_schema_extra=LATER)  # degrees, to either side
    aspect: tuple[Factor, Factor] = Field((1.0, 1.0), json_schema_extra=LATER)  # width over height
    # A crop is drawn again, up to ten times, while one class covers more of its labelled pixels.
    max_class_share: float | None = Field(None, gt=0, le=1, json_schema_extra=LATER)
    accumulate: Positive = Field(1, json_schema_extra=LATER)  # parts that a batch is computed in
    ema: float | None = Field(
        None, gt=0, lt=1, json_schema_extra=LATER
    )  # decay of averaged weights, which grows to that (`averaging`)
    # The folder of a run, or a safetensors file of a whole model, whose weights it starts from.
    init: str | None = Field(None, min_length=1, json_schema_extra=LATER)
    batch_norm: Literal["batch", "frozen"] = Field("batch", json_schema_extra=LATER)
    deterministic: bool = Field(False, json_schema_extra=LATER)
    compile: bool = Field(False, json_schema_extra=LATER)  # by torch; scores are those without
    watch: WatchConfig | None = Field(None, json_schema_extra=LATER)
    # Which weights a run ends with: of the last step, or of the highest watched mIoU.
    keep: Literal["last", "best"] = Field("last", json_schema_extra=LATER)

    @model_validator(mode="after")
    def _ordered_ranges(self) -> Self:
        for name, (low, high) in (("scale", self.scale), ("aspect", self.aspect)):
            if not 0 < low <= high:
                raise ValueError(
                    f"{name} must be [low, high] with 0 < low <= high, got {[low, high]}"
                )
        return self

    @model_validator(mode="after")
    def _watched_to_choose(self) -> Self:
        if self.keep == "best" and self.watch is None:
            raise ValueError(
                "keep: best is that of the watched scores, and watch is not set: "
                "watch: {every: STEPS, images: N, split: NAME}"
            )
        return self

    @model_validator(mode="after")
    def _whole_parts(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(
                f"batch {self.batch} cannot be computed in {self.accumulate} equal parts: "
                "accumulate must divide it"
            )
        return self
