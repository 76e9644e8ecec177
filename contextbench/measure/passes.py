"""What runs under a protocol: the one description that plans, costs, choices and records share.

A training step is that of the training loop, on generated images of the size of its crops, with
the part of the batch that one process has. A pass is one forward pass of one input of evaluation:
an image, a view of it at another scale, or a window. Models have random weights and learn next to
nothing, so that no loss ever ceases to be finite.

Axes: (H, W) image pixels, height first; K classes.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.evaluation.prediction import view_size, window_starts
from contextbench.measure.counts import Counts, count_scopes
from contextbench.measure.latency import forward_call
from contextbench.measure.memory import MemoryPrediction, WithoutData
from contextbench.models.build import build_model, loss_weights
from contextbench.models.compiled import Compiled, Mode
from contextbench.models.precision import FLOAT32, Precision
from contextbench.models.segmenter import Segmenter
from contextbench.training.loop import (
    Recipe,
    Training,
    deterministic,
    device_parts,
    freeze_batch_norm,
    train_step,
)
from contextbench.training.losses import Criterion, own_mean

Size = tuple[int, int]  # height, width
Call = Callable[[], object]
BatchNorm = Literal["own images", "images of all processes", "frozen in the backbone"]

FLOAT_BYTES = 4
LARGEST_VIEW = 2**28  # pixels; the network's first map alone would take more than 60 GB
CPU = torch.device("cpu")

# A rate at which weights hardly move, and a schedule that outlasts all timing.
MEASURED = {"lr": 1e-6, "steps": 10**6}


@dataclass(frozen=True)
class Workload:
    """How large everything is that runs under a protocol in one view, and in what form."""

    protocol: Protocol
    classes: int
    image_size: Size  # that stands for all: see `contextbench.data.sizes`
    images: int | None  # that are evaluated
    processes: int = 1  # that share each batch
    synchronised: bool = True  # whether several processes share statistics of batch norm: GPUs do
    precision: Precision = FLOAT32
    view: str | None = None  # None: the first, whose costs are a comparison's

    @property
    def evaluate(self) -> EvaluateConfig:
        """Settings of the view."""
        return self.protocol.view(self.view)

    @property
    def share(self) -> int:
        """Images of a batch that a process trains on."""
        return self.protocol.train.batch // self.processes

    @property
    def part(self) -> int:
        """Those that it trains on at a time."""
        return self.share // self.protocol.train.accumulate

    @property
    def batch_norm(self) -> BatchNorm:
        """Whose statistics it uses in training."""
        if self.protocol.train.batch_norm == "frozen":
            return "frozen in the backbone"
        shared = self.processes > 1 and self.synchronised
        return "images of all processes" if shared else "own images"

    @property
    def views(self) -> list[Size]:
        """Of an image, at each scale; mirror images have the same sizes."""
        config = self.evaluate
        return [view_size(self.image_size, config, scale) for scale in config.scales]

    @property
    def input_size(self) -> Size:
        """Of a pass, at the scale where it is largest."""
        return max(map(self._input, self.views), key=math.prod)

    @property
    def at_once(self) -> int:
        """Windows that go through the model together; one where they are as many as fit."""
        wanted = self.evaluate.window_batch
        return 1 if wanted == "auto" else min(wanted, max(map(self._windows, self.views)))

    @property
    def passes(self) -> float:
        """Passes of `input_size` that an image takes; smaller ones count by their area."""
        work = sum(self._windows(view) * math.prod(self._input(view)) for view in self.views)
        return work * self._mirrored / math.prod(self.input_size)

    @property
    def kept_bytes(self) -> int:
        """Scores (K, h, w) of an image that are held while its views are predicted."""
        stride, cells = self.protocol.backbone.output_stride, 0
        for view in self.views:
            height, width = self._input(view)
            cells += self._windows(view) * math.ceil(height / stride) * math.ceil(width / stride)
        return FLOAT_BYTES * self.classes * cells * self._mirrored

    def check(self) -> None:
        """Raise `ConfigError` for views that no model can see."""
        for scale in self.evaluate.scales:
            height, width = view_size(self.image_size, self.evaluate, scale)
            if height * width > LARGEST_VIEW:
                given = "x".join(map(str, self.image_size))
                name = self.view or self.protocol.first_view
                raise ConfigError(
                    f"evaluate.{name}.scales: at scale {scale:g} an image of {given} becomes "
                    f"{height}x{width}; at most {LARGEST_VIEW:,} pixels are allowed"
                )

    def as_dict(self) -> dict[str, Any]:
        """What is measured, for a record: plain values, sizes as lists."""
        return {
            "image_size": list(self.image_size),
            "input_size": list(self.input_size),
            "passes": self.passes,
            "processes": self.processes,
            "part": self.part,
            "accumulate": self.protocol.train.accumulate,
            "batch_norm": self.batch_norm,
        }

    @property
    def _mirrored(self) -> int:
        return 1 + self.evaluate.flip

    @property
    def watched_passes(self) -> float:
        """Passes of `input_size` that a process takes while its training is watched."""
        config = self.protocol.train
        if config.watch is None:
            return 0.0
        times = math.ceil(config.steps / config.watch.every)
        return times * math.ceil(config.watch.images / self.processes) * self.passes

    def _input(self, view: Size) -> Size:
        window = self.evaluate.window
        return view if window is None else (min(window[0], view[0]), min(window[1], view[1]))

    def _windows(self, view: Size) -> int:
        stride = self.evaluate.stride
        if stride is None:
            return 1
        sides = zip(view, self._input(view), stride, strict=True)
        return math.prod(len(window_starts(*side)) for side in sides)


class Predicted(NamedTuple):
    """What one head takes, from shapes alone; bytes of one process."""

    counts: dict[str, Counts]  # by scope, of a pass
    training_bytes: int
    inference_bytes: int


def training_call(
    work: Workload, head: HeadConfig, device: torch.device, mode: Mode | None = None
) -> Call:
    """A training step to time, with what brings its images to the device.

    `mode` None: as the protocol says. Raises what building the head or moving it to the device
    does.
    """
    model = built(work, head)
    recipe = _recipe(work, model, head, device)
    if mode is not None:
        config = recipe.config.model_copy(update={"compile": mode == "compile"})
        recipe = replace(recipe, config=config)
    height, width = work.protocol.train.crop
    batch = torch.randn(work.share, 3, height, width)
    labels = torch.randint(work.classes, (work.share, height, width), dtype=torch.uint8)
    if device.type == "cuda":
        batch, labels = batch.pin_memory(), labels.pin_memory()
    training = Training(model, recipe)

    def step() -> None:
        with deterministic(recipe.config.deterministic):
            training.step(device_parts(batch, labels, recipe))

    return step


def pass_call(
    work: Workload, head: HeadConfig, device: torch.device, mode: Mode | None = None
) -> Call:
    """A pass of evaluation to time, on a normalised image that is on the device.

    Runs evaluate without compiled code, whatever their protocol says.
    """
    model: nn.Module = built(work, head).to(device)
    if mode == "compile":
        model = Compiled(model)
    return forward_call(model, torch.randn(1, 3, *work.input_size, device=device), work.precision)


class HeadMemory:
    """Memory of the passes and steps of one head, of any workload that differs in sizes alone.

    Its model is built once. Raises `ConfigError` for wrong options.
    """

    def __init__(self, work: Workload, head: HeadConfig) -> None:
        self._head = head
        self.model = built(work, head, "meta")
        self._frozen_batch_norm = work.batch_norm == "frozen in the backbone"

    @property
    def weights_bytes(self) -> int:
        """Of parameters and buffers."""
        return _nbytes([*self.model.parameters(), *self.model.buffers()])

    def inference_bytes(self, work: Workload, images: int = 1) -> int:
        """Peak of a pass of so many images, or of their windows, and all scores that are held."""
        batch = torch.empty(images * work.at_once, 3, *work.input_size, device="meta")
        inference = self._for_inference.inference(batch, precision=work.precision)
        return inference.peak_bytes + images * work.kept_bytes

    def training_bytes(self, work: Workload) -> int:
        """Peak of a step on a process's part of a batch."""
        recipe, config = _recipe(work, self.model, self._head, CPU), work.protocol.train
        images = torch.empty(work.part, 3, *config.crop, device="meta")
        labels = torch.empty(work.part, *config.crop, dtype=torch.int64, device="meta")

        def step(fake: nn.Module, part: tuple[Tensor, Tensor]) -> None:
            trained = [parameter for parameter in fake.parameters() if parameter.requires_grad]
            in_place = torch.optim.SGD(trained, lr=0.0)
            # From the second part on there are gradients: more parts hold nothing more.
            train_step(fake, in_place, [part] * min(config.accumulate, 2), recipe)

        found = self._for_training.training_steps(
            step, (images, labels), optimizer=config.optimizer, steps=1
        )
        return found.peak_bytes + _further_bytes(work, found, self.model.trained_part)

    @cached_property
    def _for_inference(self) -> WithoutData:
        return WithoutData(self.model)

    @cached_property
    def _for_training(self) -> WithoutData:
        self.model.train()
        if self._frozen_batch_norm:
            freeze_batch_norm(self.model.backbone)
        return WithoutData(self.model)


def predicted(work: Workload, head: HeadConfig) -> Predicted:
    """Counts and memory of a head. Raises `ConfigError` for wrong options."""
    memory = HeadMemory(work, head)
    return Predicted(
        counts=count_scopes(memory.model.backbone, memory.model.head, work.input_size),
        training_bytes=memory.training_bytes(work),
        inference_bytes=memory.inference_bytes(work),
    )


def inference_bytes(work: Workload, head: HeadConfig) -> int:
    """Peak of a pass with the scores that are held. Raises as `predicted` does."""
    return HeadMemory(work, head).inference_bytes(work)


def built(work: Workload, head: HeadConfig, device: str = "cpu") -> Segmenter:
    """The head's model with random weights, as one of the processes has it."""
    with torch.device(device):
        model = build_model(work.protocol, head, work.classes, seed=0, pretrained=False)
    if work.processes > 1 and work.synchronised:
        _synchronise_alone(model)
    return model


def _recipe(work: Workload, model: Segmenter, head: HeadConfig, device: torch.device) -> Recipe:
    config = work.protocol.train
    # Class weights are not known yet and do not change any cost.
    weighted = config.loss.class_weights is not None
    weights = torch.ones(work.classes, device=device) if weighted else None
    criterion = Criterion.of(work.protocol, weights)
    if work.processes > 1:
        criterion = criterion.divided(work.processes, own_mean)
    return Recipe(
        config=config.model_copy(update={**MEASURED, "batch": work.share}),
        loss_weights=loss_weights(model, head),
        precision=work.precision,
        device=device,
        seed=0,
        identity={},
        criterion=criterion,
    )


def _further_bytes(work: Workload, step: MemoryPrediction, part: nn.Module) -> int:
    """What lives through all of a step: averaged weights, and the gradients that are exchanged."""
    averaged = _nbytes([*part.parameters(), *part.buffers()])
    shared = step.gradient_bytes * (work.processes > 1)
    return averaged * (work.protocol.train.ema is not None) + shared


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _SynchronisedAlone(nn.SyncBatchNorm):
    """One process's part of a synchronised batch norm: a single value of its own is enough."""

    def forward(self, x: Tensor) -> Tensor:
        # The statistics of a single value have no variance to be kept.
        mean, variance = (None, None) if self.training else (self.running_mean, self.running_var)
        return torch.batch_norm(
            x, self.weight, self.bias, mean, variance,
            self.training, self.momentum or 0.0, self.eps, torch.backends.cudnn.enabled,
        )  # fmt: skip


def _synchronise_alone(model: nn.Module) -> None:
    """In place. Batch norms of other kinds, which timm has, never see a single value."""
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            module.__class__ = _SynchronisedAlone
