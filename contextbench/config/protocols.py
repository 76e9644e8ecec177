"""Protocols as files: everything that the heads of a comparison share, without inheritance.

This module does not import torch.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from contextbench.config import averaging
from contextbench.config.evaluation import SETTINGS, SINGLE, EvaluateConfig, ViewName, as_views
from contextbench.config.files import (
    ConfigError,
    Named,
    find_config,
    names_in,
    nearest,
    read_mapping,
    refuse_stated,
    validated,
)
from contextbench.config.frozen import (
    LATER,
    Deviation,
    Factor,
    Frozen,
    Level,
    Plugged,
    Positive,
    Side,
    without_later_defaults,
)
from contextbench.config.overrides import all_overridden
from contextbench.config.training import TrainConfig
from contextbench.system import plugins
from contextbench.system.reading import given

PROTOCOL_VERSION = 1
"""Raised whenever a change of the code changes what a protocol measures; part of fingerprints."""


class DatasetConfig(Plugged):
    name: str
    root: str | None = None
    train: str = "train"
    evaluate: str = "val"
    options: dict[str, Any] = {}


class InputsConfig(Frozen):
    """What a network was trained on: order of the channels, and what of them it takes as 0 and 1.

    Mean and deviation are in 0 .. 255 and in the order of the channels.
    """

    order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[Level, Level, Level]
    std: tuple[Deviation, Deviation, Deviation]


class BackboneConfig(Frozen):
    name: str
    stem: Literal["basic", "deep", "deep_wide"] = "basic"
    output_stride: Literal[4, 8, 16, 32] = 8  # 4: HRNet, and no other
    multi_grid: tuple[Positive, Positive, Positive] = (1, 1, 1)
    width: Side = 64
    # Of residual blocks of two convolutions: which of these a dilated stage dilates.
    basic_dilation: Literal["both", "first"] = Field("both", json_schema_extra=LATER)
    # Of the convolution in a dilated stage that a stride was taken from: what the stage before has,
    # so that ImageNet weights keep their meaning, or what the others of its stage have.
    entry_dilation: Literal["previous", "own"] = Field("previous", json_schema_extra=LATER)
    ceil_pool: bool = Field(False, json_schema_extra=LATER)  # the stem's pooling takes rests too
    # Of HRNet: coarse maps are enlarged by a power of two first, which at sides that 32 does not
    # divide is another function.
    scaled_exchange: bool = Field(False, json_schema_extra=LATER)
    # Of images, where they are not ImageNet's statistics of RGB, as published networks may have it.
    inputs: InputsConfig | None = Field(None, json_schema_extra=LATER)
    weights: str | None = None


MULTI_SCALE, MULTI = "-ms", "multi"  # ending of protocols that were one with other scales; its view

WEIGHT_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors")


def weights_file(weights: str | None) -> Path | None:
    """The file that `backbone.weights` names; None for a published set of weights."""
    if weights is None:
        return None
    path = Path(weights).expanduser()
    return path if path.suffix in WEIGHT_SUFFIXES or path.is_file() else None


class Expectation(Frozen):
    """Where a protocol comes from and what to expect of it; it changes nothing."""

    source: str
    scores: dict[str, dict[str, str]] = {}  # view -> head -> published score with its conditions
    gpu_hours: str | None = None


class Protocol(Named):
    """Everything that the heads of one comparison share.

    It trains once and may evaluate in several views; the first is the one that tables show unless
    told otherwise, whose costs are measured, and which belongs to the identity of a run.
    `head_width_factor` multiplies every width of every head alike, so that a narrow backbone
    carries heads of the papers' proportions (512 of 2048 channels, say 128 of 512).
    """

    dataset: DatasetConfig
    backbone: BackboneConfig
    head_width_factor: Factor = 1.0
    train: TrainConfig
    evaluate: dict[ViewName, EvaluateConfig] = {SINGLE: EvaluateConfig()}
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    # Whether all resizing, of logits to the image too, is with aligned corners, as in other code.
    align_corners: bool = Field(False, json_schema_extra=LATER)
    # `frozen`: all heads are trained at once on the features of one backbone that is not trained.
    shared_backbone: Literal["frozen"] | None = Field(None, json_schema_extra=LATER)
    expected: Expectation | None = None

    @model_validator(mode="before")
    @classmethod
    def _named_views(cls, content: Any) -> Any:
        return _with_named_views(content) if isinstance(content, Mapping) else content

    @model_validator(mode="after")
    def _expects_known_views(self) -> Self:
        for name in self.expected.scores if self.expected else ():
            if name not in self.evaluate:
                raise ValueError(
                    f"expected.scores: there is no view {name}; {nearest(name, self.evaluate)}"
                )
        return self

    @property
    def watched_split(self) -> str | None:
        """The split that `train.watch` scores a part of."""
        watch = self.train.watch
        return None if watch is None else watch.split or self.dataset.evaluate

    @property
    def reported_splits(self) -> dict[str, str]:
        """Key of this file -> the split that it has scored for tables."""
        keys = {
            "dataset.evaluate" if config.split is None else f"evaluate.{view}.split": view
            for view, config in self.evaluate.items()
        }
        return {key: self.split(view) for key, view in keys.items()}

    @property
    def first_view(self) -> str:
        """Its name."""
        return next(iter(self.evaluate))

    def view(self, name: str | None = None) -> EvaluateConfig:
        """Settings of a view, the first unless named. Raises `ConfigError` for an unknown one."""
        if name is None:
            name = self.first_view
        if name not in self.evaluate:
            raise unknown_view(name, self.evaluate, f"protocol {self.name}")
        return self.evaluate[name]

    def split(self, view: str | None = None) -> str:
        """The split that a view is evaluated on. Raises as `view` does."""
        return self.view(view).split or self.dataset.evaluate

    def with_view(self, name: str, config: EvaluateConfig) -> "Protocol":
        """The same with one view more, or another one of this name."""
        return self.model_copy(update={"evaluate": {**self.evaluate, name: config}})

    def seen(self, view: str | None = None) -> dict[str, Any]:
        """Plain data as of a protocol that evaluates in one view only, on the split of that one.

        Where the data lie is left out.
        """
        config = self.view(view)
        content = self.model_dump(mode="json", exclude={"dataset": {"root"}})
        content["dataset"]["evaluate"] = self.split(view)
        return {**content, "evaluate": config.model_dump(mode="json", exclude={"split"})}

    def fingerprint(
        self,
        dataset_fingerprint: str,
        weights_digest: str | None = None,
        view: str | None = None,
        *,
        init_digest: str | None = None,
    ) -> str:
        """Hex digest over all that changes what is measured in a view; not where the data lie.

        That of a run is the one of the first view: other views neither change what is trained nor
        what the first one finds. `dataset_fingerprint` is that of the training split and the
        view's. The digests of what `backbone.weights` and `train.init` name stand for these files,
        wherever they lie.
        """
        content = without_later_defaults(self)
        content["evaluate"] = without_later_defaults(self.view(view))
        content["evaluate"].pop("split", None)
        content["dataset"]["evaluate"] = self.split(view)
        if weights_digest is not None:
            content["backbone"]["weights"] = f"sha256:{weights_digest}"
        if init_digest is not None:
            content["train"]["init"] = f"sha256:{init_digest}"
        del content["name"], content["expected"], content["dataset"]["root"]
        if self.train.keep == "last":
            content["train"].pop("watch", None)
        if self.train.ema is not None:
            content["train"]["ema_rule"] = averaging.RULE
        content["dataset_fingerprint"] = dataset_fingerprint
        content["protocol_version"] = PROTOCOL_VERSION
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def unknown_view(name: str, known: Iterable[str], owner: str) -> ConfigError:
    """The error for a view that `owner` does not have."""
    return ConfigError(f"{owner} has no view {given(name)}; {nearest(name, known)}")


def _with_named_views(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with its views by name, and the scores that are expected likewise.

    Raises ValueError as `as_views` does.
    """
    views = as_views(content.get("evaluate", {}))
    named = {**content, "evaluate": views}
    expected = content.get("expected")
    scores = expected.get("scores") if isinstance(expected, Mapping) else None
    if not (isinstance(views, Mapping) and isinstance(expected, Mapping) and scores):
        return named
    if isinstance(scores, Mapping) and not any(isinstance(v, Mapping) for v in scores.values()):
        scores = {next(iter(views)): scores}
    return {**named, "expected": {**expected, "scores": scores}}


def load_protocol(name: str, overrides: Sequence[str] = ()) -> Protocol:
    """Read a shipped protocol by name, or any file by path; apply `key.key=value` overrides.

    Raises `ConfigError` for an unknown name, an unreadable file, and unknown or invalid keys.
    """
    path = _protocol_file(name)
    content = _overridden(read_mapping(path), overrides, str(path))
    refuse_stated(DatasetConfig, content.get("dataset"), f"{path}: dataset")
    return identified(validated(Protocol, {"name": path.stem, **content}, str(path)))


def overridden(protocol: Protocol, overrides: Sequence[str]) -> Protocol:
    """`protocol` with `key.key=value` applied. Raises `ConfigError` as `load_protocol` does."""
    source = f"protocol {protocol.name}"
    content = protocol.model_dump(mode="json", exclude={"dataset": {"plugin"}})
    content = _overridden(content, overrides, source)
    refuse_stated(DatasetConfig, content.get("dataset"), f"{source}: dataset")
    return identified(validated(Protocol, content, source))


def identified(protocol: Protocol) -> Protocol:
    """`protocol`, which the user gives, with the code that its dataset is if that is a plug-in.

    Raises `PluginError` where that cannot be imported.
    """
    name = protocol.dataset.name
    place = plugins.entry_place(plugins.DATASETS, name)
    if place is None and ":" not in name:
        return protocol
    found = plugins.named(plugins.DATASETS, place or name)
    dataset = protocol.dataset.model_copy(update={"plugin": found})
    return protocol.model_copy(update={"dataset": dataset})


def _protocol_file(name: str) -> Path:
    """As `find_config`; raises `ConfigError` that names the view for what was a protocol once."""
    base = name.removesuffix(MULTI_SCALE)
    if name != base and base in (shipped := names_in("protocols")) and name not in shipped:
        raise ConfigError(
            f"protocol {name} is now the view {MULTI} of protocol {base}, which trains once for "
            f"all its views: --protocol {base}, and --view {MULTI} where tables are made"
        )
    return find_config(name, "protocols")


def _overridden(content: dict[str, Any], overrides: Sequence[str], source: str) -> dict[str, Any]:
    """With `key.key=value` applied; a setting without a view is that of the only one."""
    for override in overrides:
        try:
            views = as_views(content.get("evaluate", {}))
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from None
        content = all_overridden({**content, "evaluate": views}, [_in_view(override, views)])
    return content


def _in_view(override: str, views: Any) -> str:
    """Raises `ConfigError` where it does not say which of several views it is for."""
    first, _, rest = override.partition(".")
    key, separator, value = rest.partition("=")
    if first != "evaluate" or not separator or not isinstance(views, Mapping):
        return override
    setting, dot, _ = key.partition(".")
    if setting not in SETTINGS and (dot or key in views or value.lstrip().startswith("{")):
        return override
    if len(views) == 1:
        return f"evaluate.{next(iter(views))}.{rest}"
    choices = " or ".join(f"evaluate.{name}.{key}" for name in views)
    raise ConfigError(f"--set {given(override)}: there are several views, so say {choices}")
