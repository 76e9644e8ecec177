"""The cost of several heads side by side: counts, predicted memory, interleaved latency.

Two ways to be asked: at an image size of a protocol (scope `model`, what a comparison reports), or
at a feature size such as 2048x128x128 (scope `head`, what papers report, without a backbone).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from contextbench.build import build_model, loss_weights
from contextbench.config import ConfigError, HeadConfig, Protocol
from contextbench.data.base import IGNORE
from contextbench.losses import loss_terms, weighted_sum
from contextbench.measure.choose import PrecisionChoice, choose_precision
from contextbench.measure.counts import (
    Counts,
    FeatureSize,
    count_head_scopes,
    count_scopes,
    feature_channels,
    meta_features,
)
from contextbench.measure.latency import forward_call, interleaved, train_call
from contextbench.measure.memory import predict_inference, predict_training_step
from contextbench.model import Segmenter
from contextbench.precision import Precision
from contextbench.provenance import environment
from contextbench.results import Failure, HeadCost, ProfileRecord, ScopeCounts
from contextbench.training import build_optimizer
from heads import Features, build_head

Call = Callable[[], object]
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Timing:
    """How latency is sampled; no rounds: costs are predicted and nothing is run."""

    rounds: int
    train_rounds: int
    device: torch.device
    precision: Precision
    progress: Callable[[int, int], None] | None = None


def profile_models(
    protocol: Protocol,
    heads: Sequence[HeadConfig],
    num_classes: int,
    image_size: tuple[int, int],
    timing: Timing,
) -> ProfileRecord:
    """Costs in the scope `model`: one image of `image_size`; training at the protocol's batch."""
    config = protocol.train
    batch = torch.empty(config.batch, 3, *config.crop, device="meta")
    target = torch.zeros(config.batch, *config.crop, dtype=torch.int64, device="meta")
    image = torch.empty(1, 3, *image_size, device="meta")

    def cost(head: HeadConfig) -> HeadCost:
        model = build_model(protocol, head, num_classes, seed=0, pretrained=False)
        counts = count_scopes(model.backbone, model.head, image_size)
        inference = predict_inference(model, image, precision=timing.precision)
        training = predict_training_step(
            model,
            _loss(model, head),
            (batch,),
            target,
            optimizer=config.optimizer,
            precision=timing.precision,
        )
        return HeadCost(
            counts=_stored(counts),
            inference_memory_bytes=inference.peak_bytes,
            training_memory_bytes=training.peak_bytes,
        )

    costs = {head.name: _guarded(cost, head) for head in heads}
    healthy = [head for head in heads if costs[head.name].failure is None]

    def built(head: HeadConfig) -> Segmenter:
        model = build_model(protocol, head, num_classes, seed=0, pretrained=False)
        return model.to(timing.device)

    images = torch.randn(1, 3, *image_size, device=timing.device)
    forward = {
        head.name: forward_call(built(head), images, timing.precision)
        for head in (healthy if timing.rounds else [])
    }
    forward_ms = _time(forward, timing.rounds, timing)
    del forward
    step = {
        head.name: _training_call(built(head), protocol, head, timing)
        for head in (healthy if timing.train_rounds else [])
    }
    train_ms = _time(step, timing.train_rounds, timing)
    return ProfileRecord(
        protocol_name=protocol.name,
        backbone=protocol.backbone.name,
        input=_shape(image),
        training_input=_shape(batch),
        scope="model",
        precision=_precision(timing.precision),
        environment=environment(timing.device),
        baseline=_baseline(heads),
        heads=_with_samples(costs, forward_ms, train_ms),
    )


def profile_heads(
    size: FeatureSize,
    heads: Sequence[HeadConfig],
    num_classes: int,
    timing: Timing,
    *,
    implementation: str = "fast",
) -> ProfileRecord:
    """Costs in the scope `head` on features of the given size, batch 1, papers' widths."""
    channels = feature_channels(size)

    def built(head: HeadConfig) -> nn.Module:
        options = {**head.options, "implementation": implementation}
        try:
            return build_head(head.head, channels, num_classes, **options)
        except ValueError as error:
            raise ConfigError(f"head file {head.name!r}: {error}") from error

    features = meta_features(size)

    def cost(head: HeadConfig) -> HeadCost:
        module = built(head)
        inference = predict_inference(module, features, precision=timing.precision)
        counts = count_head_scopes(module, features)  # type: ignore[arg-type]
        return HeadCost(counts=_stored(counts), inference_memory_bytes=inference.peak_bytes)

    costs = {head.name: _guarded(cost, head) for head in heads}
    data = Features(*(torch.randn(stage.shape, device=timing.device) for stage in features))
    calls = {
        head.name: forward_call(built(head).to(timing.device), data, timing.precision)
        for head in heads
        if timing.rounds and costs[head.name].failure is None
    }
    return ProfileRecord(
        protocol_name=None,
        backbone=None,
        input=_shape(features.layer4),
        training_input=None,
        scope="head",
        precision=_precision(timing.precision),
        environment=environment(timing.device),
        baseline=_baseline(heads),
        heads=_with_samples(costs, _time(calls, timing.rounds, timing), {}),
    )


def choose_for(
    protocol: Protocol, heads: Sequence[HeadConfig], num_classes: int, device: torch.device
) -> PrecisionChoice:
    """Time real optimisation steps of every head and choose one precision for all of them."""

    def factory(head: HeadConfig) -> Callable[[Precision], Callable[[], None]]:
        def prepare(precision: Precision) -> Callable[[], None]:
            model = build_model(protocol, head, num_classes, seed=0, pretrained=False)
            timing = Timing(0, 1, device, precision)
            call = _training_call(model.to(device), protocol, head, timing)

            def step() -> None:
                call()

            return step

        return prepare

    return choose_precision({head.name: factory(head) for head in heads}, device)


def _training_call(model: Segmenter, protocol: Protocol, head: HeadConfig, timing: Timing) -> Call:
    config = protocol.train
    images = torch.randn(config.batch, 3, *config.crop, device=timing.device)
    labels = torch.zeros(config.batch, *config.crop, dtype=torch.int64, device=timing.device)
    return train_call(
        model,
        _loss(model, head),
        build_optimizer(model, config),
        images,
        labels,
        timing.precision,
    )


def _loss(model: Segmenter, head: HeadConfig) -> Loss:
    weights = loss_weights(model, head)

    def loss(output: object, labels: Tensor) -> Tensor:
        return weighted_sum(loss_terms(output, labels, IGNORE), weights)  # type: ignore[arg-type]

    return loss


def _guarded(cost: Callable[[HeadConfig], HeadCost], head: HeadConfig) -> HeadCost:
    """A head whose cost cannot be determined is a row with a reason; wrong options are refused."""
    try:
        return cost(head)
    except ConfigError:
        raise
    except Exception as error:
        return HeadCost(counts={}, failure=Failure(kind=type(error).__name__, message=str(error)))


def _time(calls: Mapping[str, Call], rounds: int, timing: Timing) -> Mapping[str, list[float]]:
    if not calls:
        return {}
    return interleaved(
        calls, rounds=rounds, warmup=2, device=timing.device, progress=timing.progress
    )


def _with_samples(
    costs: Mapping[str, HeadCost],
    forward_ms: Mapping[str, list[float]],
    train_ms: Mapping[str, list[float]],
) -> dict[str, HeadCost]:
    return {
        name: cost.model_copy(
            update={
                "latency_ms": forward_ms.get(name, []),
                "train_latency_ms": train_ms.get(name, []),
            }
        )
        for name, cost in costs.items()
    }


def _stored(counts: Mapping[str, Counts]) -> dict[str, ScopeCounts]:
    return {scope: ScopeCounts(**count.as_dict()) for scope, count in counts.items()}


def _baseline(heads: Sequence[HeadConfig]) -> str:
    """`fcn` where it takes part, else the first head."""
    names = [head.name for head in heads]
    return "fcn" if "fcn" in names else names[0]


def _precision(precision: Precision) -> dict[str, str]:
    return {"dtype": precision.dtype, "memory_format": precision.memory_format}


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape)
