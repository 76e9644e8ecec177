"""Protocols and heads as files: frozen models read from YAML, without inheritance.

A protocol (data, schedule, backbone, evaluation) is shared by all heads of a comparison; a head's
file holds its options and loss weights and nothing else. This module does not import torch.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from contextbench.config import averaging
from contextbench.config.safe_yaml import LARGEST_TEXT, parse_yaml
from contextbench.system.errors import UserError
from contextbench.system.naming import Name
from contextbench.system.reading import exists, given, read_bytes, reason_of, why
from contextbench.system.text import shortened

PROTOCOL_VERSION = 1
"""Raised whenever a change of the code changes what a protocol measures; part of fingerprints."""

LARGEST_SCALE = 100.0  # of images, against their own size
LARGEST_SIDE = 2**16  # pixels
LARGEST_RATE = 1e30  # times the largest `head_lr_factor` still a number in float32
LARGEST_SEED = 2**63 - 1

Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Size = tuple[Side, Side]  # height, width in pixels
Positive = Annotated[int, Field(ge=1, le=10**9)]
Weight = Annotated[float, Field(ge=0, le=1e6)]  # of a loss term, of a class
Factor = Annotated[float, Field(gt=0, le=LARGEST_SCALE)]


MOST_FAULTS = 10  # of one file that a message lists
LONGEST_LIST = 3000  # characters
LONGEST_GUESS = 200  # characters of a name that is compared with others

M = TypeVar("M", bound=BaseModel)


class ConfigError(UserError, ValueError):
    """A mistake in a configuration. The message names the file, the key and what is allowed."""


class Frozen(BaseModel):
    """What is read from a file: immutable, numbers are finite, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


LATER: dict[str, JsonValue] = {"later": True}
"""Marks options that came after records were published: a fingerprint holds them only where they
are not at their default, which is what the code did before it had them."""


class DatasetConfig(Frozen):
    name: str
    root: str | None = None
    train: str = "train"
    evaluate: str = "val"
    options: dict[str, Any] = {}


class BackboneConfig(Frozen):
    name: str
    stem: Literal["basic", "deep", "deep_wide"] = "basic"
    output_stride: Literal[4, 8, 16, 32] = 8  # 4: HRNet, and no other
    multi_grid: tuple[Positive, Positive, Positive] = (1, 1, 1)
    width: Side = 64
    weights: str | None = None


WEIGHT_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors")


def weights_file(weights: str | None) -> Path | None:
    """The file that `backbone.weights` names; None for a published set of weights."""
    if weights is None:
        return None
    path = Path(weights).expanduser()
    return path if path.suffix in WEIGHT_SUFFIXES or path.is_file() else None


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
    batch_norm: Literal["batch", "frozen"] = Field("batch", json_schema_extra=LATER)
    deterministic: bool = Field(False, json_schema_extra=LATER)

    @model_validator(mode="after")
    def _ordered_ranges(self) -> Self:
        for name, (low, high) in (("scale", self.scale), ("aspect", self.aspect)):
            if not 0 < low <= high:
                raise ValueError(
                    f"{name} must be [low, high] with 0 < low <= high, got {[low, high]}"
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


class Expectation(Frozen):
    """Where a protocol comes from and what to expect of it; it changes nothing."""

    source: str
    scores: dict[str, str] = {}  # head -> published score with its conditions
    gpu_hours: str | None = None


class Protocol(Frozen):
    """Everything that the heads of one comparison share.

    `head_width_factor` multiplies every width of every head alike, so that a narrow backbone
    carries heads of the papers' proportions (512 of 2048 channels, say 128 of 512).
    """

    name: Name
    dataset: DatasetConfig
    backbone: BackboneConfig
    head_width_factor: Factor = 1.0
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    # `frozen`: all heads are trained at once on the features of one backbone that is not trained.
    shared_backbone: Literal["frozen"] | None = Field(None, json_schema_extra=LATER)
    expected: Expectation | None = None

    def fingerprint(self, dataset_fingerprint: str, weights_digest: str | None = None) -> str:
        """Hex digest over all that changes what is measured, where the data lies left out.

        The digest of a file that `backbone.weights` names stands for it, wherever it lies.
        """
        content = _without_later_defaults(self)
        if weights_digest is not None:
            content["backbone"]["weights"] = f"sha256:{weights_digest}"
        del content["name"], content["expected"], content["dataset"]["root"]
        if self.train.ema is not None:
            content["train"]["ema_rule"] = averaging.RULE
        content["dataset_fingerprint"] = dataset_fingerprint
        content["protocol_version"] = PROTOCOL_VERSION
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _within(size: Size, limit: Size) -> bool:
    return size[0] <= limit[0] and size[1] <= limit[1]


def _without_later_defaults(model: BaseModel) -> dict[str, Any]:
    """`model` as plain data, less the options marked `LATER` that are at their default."""
    content = model.model_dump(mode="json")
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if field.json_schema_extra == LATER and value == field.default:
            del content[name]
        elif isinstance(value, BaseModel):
            content[name] = _without_later_defaults(value)
    return content


class HeadConfig(Frozen):
    """One row of a comparison: a registered head with its options.

    `name` is the file's stem and labels the row; `loss_weights` override the published ones.
    """

    name: Name
    head: str
    options: dict[str, Any] = {}
    loss_weights: dict[str, Weight] = {}


def configs_folder() -> Path:
    """The shipped `configs/`: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def names_in(kind: str) -> list[str]:
    """Names of the shipped files of one kind: `protocols`, `heads` or `tables`."""
    return sorted(path.stem for path in (configs_folder() / kind).glob("*.yaml"))


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The end of an error message: nearest valid name, then all of them."""
    choices = sorted(allowed)
    close = difflib.get_close_matches(name[:LONGEST_GUESS], choices, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(choices) or "nothing"
    return f"{hint}allowed: {shortened(listed, LONGEST_LIST)}"


def load_protocol(name: str, overrides: Sequence[str] = ()) -> Protocol:
    """Read a shipped protocol by name, or any file by path; apply `key.key=value` overrides.

    Raises `ConfigError` for an unknown name, an unreadable file, and unknown or invalid keys.
    """
    path = find_config(name, "protocols")
    content = _all_overridden(read_mapping(path), overrides)
    return validated(Protocol, {"name": path.stem, **content}, str(path))


def overridden(protocol: Protocol, overrides: Sequence[str]) -> Protocol:
    """`protocol` with `key.key=value` applied. Raises `ConfigError` as `load_protocol` does."""
    content = _all_overridden(protocol.model_dump(mode="json"), overrides)
    return validated(Protocol, content, f"protocol {protocol.name}")


def load_head(name: str, known: Iterable[str]) -> HeadConfig:
    """Read a head's file by name or path; a registered head without a file has default options.

    `known` are the registered names. Raises `ConfigError` as `load_protocol` does.
    """
    heads = set(known)
    if name in heads and name not in names_in("heads"):
        return HeadConfig(name=name, head=name)
    path = find_config(name, "heads", extra=heads)
    config = validated(HeadConfig, {"name": path.stem, **read_mapping(path)}, str(path))
    if config.head not in heads:
        raise ConfigError(f"{path}: head {config.head!r} is unknown; {nearest(config.head, heads)}")
    return config


def find_config(name: str, kind: str, extra: Iterable[str] = ()) -> Path:
    """The shipped file of a kind by name, or any file by path. Raises `ConfigError`."""
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        path = Path(name)
        if not exists(path, Path.is_file):
            raise ConfigError(f"there is no file {shortened(name, LONGEST_LIST)}")
        return path
    if name not in names_in(kind):
        allowed = {*names_in(kind), *extra}
        raise ConfigError(f"unknown {kind[:-1]} {given(name)}; {nearest(name, allowed)}")
    return configs_folder() / kind / f"{name}.yaml"


def read_mapping(path: Path) -> dict[str, Any]:
    """The content of a YAML file. Raises `ConfigError` unless it is a mapping."""
    try:
        content = parse_yaml(read_bytes(path, LARGEST_TEXT).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {why(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys, found {type(content).__name__}")
    return content


def _all_overridden(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        content = _overridden(content, override)
    return content


def _overridden(content: Mapping[str, Any], override: str) -> dict[str, Any]:
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise ConfigError(f"--set {given(override)}: write it as key.key=value")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(
            f"--set {given(override)}: the value is not YAML: {why(error)}"
        ) from error
    return _replaced(content, dotted.split("."), value, override)


def _replaced(
    content: Mapping[str, Any], keys: Sequence[str], value: Any, override: str
) -> dict[str, Any]:
    first, *rest = keys
    if not rest:
        return {**content, first: value}
    inner = content.get(first, {})
    if not isinstance(inner, Mapping):
        raise ConfigError(f"--set {given(override)}: {first!r} holds a value, not keys")
    return {**content, first: _replaced(inner, rest, value, override)}


def validated(model: type[M], content: Mapping[str, Any], source: str) -> M:
    """`content` as a model. Raises `ConfigError` that names `source`, key and what is allowed."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        items = error.errors()
        lines = [_explain(model, item, source) for item in items[:MOST_FAULTS]]
        if len(items) > MOST_FAULTS:
            lines.append(f"{source}: and {len(items) - MOST_FAULTS} more")
        raise ConfigError("\n".join(lines)) from None


def _explain(model: type[BaseModel], item: Any, source: str) -> str:
    location = [str(part) for part in item["loc"]]
    key = given(".".join(location))
    if item["type"] == "extra_forbidden":
        allowed = _keys_at(model, location[:-1])
        return f"{source}: unknown key {key}; {nearest(location[-1], allowed)}"
    if item["type"] == "missing":
        return f"{source}: key {key} is missing"
    return f"{source}: key {key} is {given(item['input'])}: {reason_of(item)}"


def _keys_at(annotation: Any, location: Sequence[str]) -> list[str]:
    """Keys of the model at `location` below a model, or below what a field of one holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not location:
            return _keys(annotation)
        field = annotation.model_fields.get(location[0])
        return [] if field is None else _keys_at(field.annotation, location[1:])
    inner, origin = get_args(annotation), get_origin(annotation)
    if origin in (dict, list, tuple):
        return _keys_at(inner[1 if origin is dict else 0], location[1:]) if location else []
    return next((keys for each in inner if (keys := _keys_at(each, location))), [])


def _keys(model: type[BaseModel]) -> list[str]:
    return [
        name for name in model.model_fields if name != "name" or model not in (Protocol, HeadConfig)
    ]
