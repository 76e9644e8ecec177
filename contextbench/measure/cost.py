"""What one model or one head costs, from shapes alone: nothing is run.

Axes: (H, W) image pixels, (h, w) feature pixels, height first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from contextbench.config.files import ConfigError
from contextbench.measure.counts import (
    Counts,
    FeatureSize,
    count_head_scopes,
    count_scopes,
    meta_features,
    on_meta,
    parse_feature_size,
)
from contextbench.measure.memory import predict_inference
from contextbench.models.precision import Dtype, Precision
from contextbench.models.segmenter import Segmenter
from heads import ContextHead, Features

ALLOWED = (
    "allowed are (height, width) of an image for a model and (channels, height, width) of the "
    "backbone's last stage for a head, in whole numbers above 0"
)


@dataclass(frozen=True)
class Cost:
    """Of one forward pass of one image in evaluation mode. docs/measuring.md defines each."""

    parameters: int  # that the pass reads
    macs: int  # of convolutions and matrix products
    memory_bytes: int  # predicted peak of its tensors: weights, input and activations
    uncounted: tuple[str, ...]  # other operators that compute

    @property
    def flops(self) -> int:
        """Two for each multiply-accumulate."""
        return 2 * self.macs


class HoldsSegmenter(Protocol):
    """A model of a run, as `contextbench.load` gives it."""

    @property
    def segmenter(self) -> Segmenter: ...


def profile(
    model: Segmenter | ContextHead | HoldsSegmenter,
    size: tuple[int, ...],
    *,
    dtype: Dtype = "float32",
) -> dict[str, Cost]:
    """Costs of a head in the scopes `context` and `head`, of a model also in the scope `model`.

    `size` is (H, W) of the image for a model, (C, h, w) of the deepest features for a head, whose
    other stages are those of a ResNet. The model is neither run nor changed. Raises `ConfigError`
    for other sizes, and for one that the model cannot take.
    """
    module = getattr(model, "segmenter", model)
    if not isinstance(module, Segmenter | ContextHead):
        raise ConfigError(
            f"a {type(model).__name__} has no profile; allowed are what load, build_model and "
            "build_head give"
        )
    _check_size(size, 3 if isinstance(module, ContextHead) else 2)
    try:
        if isinstance(module, ContextHead):
            return _of_head(module, _features(size), dtype)
        return _of_model(module, size, dtype)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"size {size} does not fit the model: {reason}") from error


def _of_model(model: Segmenter, size: tuple[int, ...], dtype: Dtype) -> dict[str, Cost]:
    image = torch.empty(1, 3, *size, device="meta")
    with torch.no_grad():
        features: Features = on_meta(model.backbone)(image)
    counts = count_scopes(model.backbone, model.head, (size[0], size[1]))
    runs = {**_runs(model.head, features), "model": (model, (image,))}
    return _costs(counts, runs, dtype)


def _of_head(head: ContextHead, features: Features, dtype: Dtype) -> dict[str, Cost]:
    return _costs(count_head_scopes(head, features), _runs(head, features), dtype)


def _runs(head: ContextHead, features: Features) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
    """What runs in each scope: a module and its inputs."""
    head = on_meta(head)
    with torch.no_grad():
        return {
            "context": (head.context, head.context_inputs(features)),
            "head": (head, (features,)),
        }


def _costs(
    counts: Mapping[str, Counts],
    runs: Mapping[str, tuple[nn.Module, tuple[Any, ...]]],
    dtype: Dtype,
) -> dict[str, Cost]:
    precision = Precision(dtype=dtype)
    costs = {}
    for scope, (module, inputs) in runs.items():
        memory = predict_inference(module, *inputs, precision=precision).peak_bytes
        found = counts[scope]
        costs[scope] = Cost(found.parameters, found.macs, memory, found.uncounted)
    return costs


def _features(size: tuple[int, ...]) -> Features:
    try:
        parsed: FeatureSize = parse_feature_size("x".join(map(str, size)))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return meta_features(parsed)


def _check_size(size: tuple[int, ...], sides: int) -> None:
    whole = isinstance(size, tuple | list) and all(type(side) is int and side > 0 for side in size)
    if not whole or len(size) != sides:
        raise ConfigError(f"size {size!r}; {ALLOWED}")
