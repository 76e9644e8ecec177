"""Protocols as files: everything that the heads of a comparison share, without inheritance.

This module does not import torch.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from contextbench.config import averaging
from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.files import Named, find_config, read_mapping, validated
from contextbench.config.frozen import LATER, Factor, Frozen, Positive, Side, without_later_defaults
from contextbench.config.overrides import all_overridden
from contextbench.config.training import TrainConfig

PROTOCOL_VERSION = 1
"""Raised whenever a change of the code changes what a protocol measures; part of fingerprints."""


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


class Expectation(Frozen):
    """Where a protocol comes from and what to expect of it; it changes nothing."""

    source: str
    scores: dict[str, str] = {}  # head -> published score with its conditions
    gpu_hours: str | None = None


class Protocol(Named):
    """Everything that the heads of one comparison share.

    `head_width_factor` multiplies every width of every head alike, so that a narrow backbone
    carries heads of the papers' proportions (512 of 2048 channels, say 128 of 512).
    """

    dataset: DatasetConfig
    backbone: BackboneConfig
    head_width_factor: Factor = 1.0
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    # `frozen`: all heads are trained at once on the features of one backbone that is not trained.
    shared_backbone: Literal["frozen"] | None = Field(None, json_schema_extra=LATER)
    expected: Expectation | None = None

    @property
    def watched_split(self) -> str | None:
        """The split that `train.watch` scores a part of."""
        watch = self.train.watch
        return None if watch is None else watch.split or self.dataset.evaluate

    @property
    def reported_splits(self) -> dict[str, str]:
        """Key of this file -> the split that it has scored for tables."""
        return {"dataset.evaluate": self.dataset.evaluate}

    def fingerprint(self, dataset_fingerprint: str, weights_digest: str | None = None) -> str:
        """Hex digest over all that changes what is measured, where the data lies left out.

        The digest of a file that `backbone.weights` names stands for it, wherever it lies.
        """
        content = without_later_defaults(self)
        if weights_digest is not None:
            content["backbone"]["weights"] = f"sha256:{weights_digest}"
        del content["name"], content["expected"], content["dataset"]["root"]
        if self.train.keep == "last":
            content["train"].pop("watch", None)
        if self.train.ema is not None:
            content["train"]["ema_rule"] = averaging.RULE
        content["dataset_fingerprint"] = dataset_fingerprint
        content["protocol_version"] = PROTOCOL_VERSION
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def load_protocol(name: str, overrides: Sequence[str] = ()) -> Protocol:
    """Read a shipped protocol by name, or any file by path; apply `key.key=value` overrides.

    Raises `ConfigError` for an unknown name, an unreadable file, and unknown or invalid keys.
    """
    path = find_config(name, "protocols")
    content = all_overridden(read_mapping(path), overrides)
    return validated(Protocol, {"name": path.stem, **content}, str(path))


def overridden(protocol: Protocol, overrides: Sequence[str]) -> Protocol:
    """`protocol` with `key.key=value` applied. Raises `ConfigError` as `load_protocol` does."""
    content = all_overridden(protocol.model_dump(mode="json"), overrides)
    return validated(Protocol, content, f"protocol {protocol.name}")
