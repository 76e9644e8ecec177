"""The cost of several models side by side: counts, predicted memory, interleaved latency.

At an image size of a protocol, scope `model`: what a comparison reports. Heads alone, at a feature
size as in papers, are in `head_profile`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch
from torch import Tensor

from contextbench.build import build_model, loss_weights
from contextbench.config import ConfigError, HeadConfig, Protocol
from contextbench.console import Reporter
from contextbench.data.base import IGNORE
from contextbench.interrupt import StopRequest
from contextbench.losses import loss_terms, weighted_sum
from contextbench.measure.choose import PrecisionChoice, choose_precision
from contextbench.measure.counts import (
    Counts,
    count_scopes,
)
from contextbench.measure.latency import forward_call, interleaved, train_call
from contextbench.measure.memory import predict_inference, predict_training_step
from contextbench.model import Segmenter
from contextbench.precision import Precision
from contextbench.provenance import environment
from contextbench.results import Failure, HeadCost, ProfileRecord, ScopeCounts
from contextbench.training import build_optimizer

WARMUP = 2  # rounds

Call = Callable[[], object]
Loss = Callable[..., Tensor]
K = TypeVar("K")


Task = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]  # label, units in all


def unwatched(_label: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    """A task that nobody sees."""
    return nullcontext(lambda _done: None)


@dataclass(frozen=True)
class Timing:
    """How latency is sampled; no rounds: costs are predicted and nothing is run."""

    rounds: int
    train_rounds: int
    device: torch.device
    precision: Precision
    task: Task = unwatched


def watched(reporter: Reporter, stop: StopRequest) -> Task:
    """Tasks that `reporter` shows and that `stop` ends between two calls."""

    @contextmanager
    def task(label: str, total: int) -> Iterator[Callable[[int], None]]:
        with reporter.task(label, total) as update:

            def progress(done: int) -> None:
                stop.check()
                update(done, "")

            yield progress

    return task


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
            counts=stored_counts(counts),
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
    forward_ms = sample("time forward passes", forward, timing.rounds, timing)
    del forward
    step = {
        head.name: _training_call(built(head), protocol, head, timing)
        for head in (healthy if timing.train_rounds else [])
    }
    train_ms = sample("time training steps", step, timing.train_rounds, timing)
    return ProfileRecord(
        protocol_name=protocol.name,
        backbone=protocol.backbone.name,
        input=_shape(image),
        training_input=_shape(batch),
        scope="model",
        precision=asdict(timing.precision),
        environment=environment(timing.device),
        baseline=_baseline(heads),
        heads=_with_samples(costs, forward_ms, train_ms),
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
        return HeadCost(counts={}, failure=Failure.of(error))


def sample(
    label: str, calls: Mapping[K, Call], rounds: int, timing: Timing
) -> Mapping[K, list[float]]:
    """Milliseconds of every call in interleaved rounds, after two rounds of warm-up."""
    if not calls:
        return {}
    with timing.task(label, len(calls) * (rounds + WARMUP)) as progress:
        return interleaved(
            calls,
            rounds=rounds,
            warmup=WARMUP,
            device=timing.device,
            progress=lambda done, _total: progress(done),
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


def stored_counts(counts: Mapping[str, Counts]) -> dict[str, ScopeCounts]:
    """Counts of each scope as a record holds them."""
    return {scope: ScopeCounts(**count.as_dict()) for scope, count in counts.items()}


def _baseline(heads: Sequence[HeadConfig]) -> str:
    """`fcn` where it takes part, else the first head."""
    names = [head.name for head in heads]
    return "fcn" if "fcn" in names else names[0]


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape)
