"""What training and evaluation of a head will take: memory from shapes, time from a few steps.

Steps are those of the training loop, on generated images of the size of its crops; loading of data
is not in them. Memory is that of tensors, as in `memory`. A head whose steps would take too long is
not timed: a small pass tells beforehand.

Axes: (H, W) image pixels, height first; K classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from contextbench.build import build_model, loss_weights
from contextbench.config import ConfigError, HeadConfig, LossConfig, Protocol
from contextbench.data.base import IGNORE
from contextbench.losses import Criterion, loss_terms, weighted_sum
from contextbench.measure.counts import count_scopes
from contextbench.measure.latency import forward_call, interleaved
from contextbench.measure.memory import MemoryPrediction, predict_inference, predict_training_step
from contextbench.model import Segmenter
from contextbench.precision import Precision
from contextbench.prediction import view_size, window_starts
from contextbench.results import Failure
from contextbench.training import Recipe, Training, deterministic, device_parts

Size = tuple[int, int]  # height, width

FLOAT_BYTES = 4
WARMUP = 1  # steps
TIMING_SECONDS = 60.0  # that the steps and passes of one head may take
GAUGE = HeadConfig(name="fcn", head="fcn")  # nothing but convolutions
GAUGE_ROUNDS = 5
TRAINING_PASSES = 3  # that a step takes for each crop: forward, and backward twice the work


@dataclass(frozen=True)
class Workload:
    """How large everything is that runs under a protocol.

    A pass is one forward pass of one input: an image, a view of it at another scale, or a window.
    """

    protocol: Protocol
    classes: int
    image_size: Size
    images: int | None  # that are evaluated
    processes: int = 1  # GPUs that share each batch

    @property
    def part(self) -> int:
        """Images that a process trains on at a time."""
        config = self.protocol.train
        return config.batch // self.processes // config.accumulate

    @property
    def views(self) -> list[Size]:
        """Of an image, at each scale; mirror images have the same sizes."""
        config = self.protocol.evaluate
        return [view_size(self.image_size, config, scale) for scale in config.scales]

    @property
    def input_size(self) -> Size:
        """Of a pass, at the scale where it is largest."""
        return max(map(self._input, self.views), key=math.prod)

    @property
    def passes(self) -> float:
        """Passes of `input_size` that an image takes; smaller ones count by their area."""
        work = sum(self._windows(view) * math.prod(self._input(view)) for view in self.views)
        return work * self._mirrored / math.prod(self.input_size)

    @property
    def kept_bytes(self) -> int:
        """Scores (K, h, w) of an image that are held while its views are predicted."""
        views = self.views
        if self.protocol.evaluate.window is None:
            stride = self.protocol.backbone.output_stride
            cells = sum(math.ceil(h / stride) * math.ceil(w / stride) for h, w in views)
            return FLOAT_BYTES * self.classes * cells * self._mirrored
        # The sum over windows of a view; of several views also their sum and a term, at label size.
        several = len(views) * self._mirrored > 1
        pixels = max(map(math.prod, views)) + 2 * math.prod(self.image_size) * several
        return FLOAT_BYTES * self.classes * pixels

    @property
    def _mirrored(self) -> int:
        return 1 + self.protocol.evaluate.flip

    def _input(self, view: Size) -> Size:
        window = self.protocol.evaluate.window
        return view if window is None else (min(window[0], view[0]), min(window[1], view[1]))

    def _windows(self, view: Size) -> int:
        stride = self.protocol.evaluate.stride
        if stride is None:
            return 1
        sides = zip(view, self._input(view), stride, strict=True)
        return math.prod(len(window_starts(*side)) for side in sides)


@dataclass(frozen=True)
class Forecast:
    """What one head will take; None where it is not known."""

    parameters: int | None = None
    macs: int | None = None  # of a pass
    training_memory_bytes: int | None = None  # of each process
    inference_memory_bytes: int | None = None
    step_ms: Sequence[float] = ()  # of one process
    pass_ms: Sequence[float] = ()
    hours: float | None = None  # of training and evaluating once, all processes at work
    untimed: str | None = None  # why there are no times, though they were asked for
    failure: Failure | None = None  # why nothing is known


@dataclass(frozen=True)
class Forecaster:
    """Predicts all heads of a comparison alike, and times `steps` of each, if any.

    A head is not timed where it does not fit into memory, or where that would take longer than
    `TIMING_SECONDS`.
    """

    workload: Workload
    precision: Precision
    device: torch.device
    steps: int = 0

    def forecast(self, head: HeadConfig) -> Forecast:
        """A head that fails has a reason; wrong options raise `ConfigError`."""
        try:
            predicted = self._predicted(head)
        except ConfigError:
            raise
        except Exception as error:
            return Forecast(failure=Failure.of(error))
        return self._timed(predicted, head) if self.steps else predicted

    def _predicted(self, head: HeadConfig) -> Forecast:
        work, config = self.workload, self.workload.protocol.train
        model = self._built(head, "meta")
        image = torch.empty(1, 3, *work.input_size, device="meta")
        batch = torch.empty(work.part, 3, *config.crop, device="meta")
        labels = torch.zeros(work.part, *config.crop, dtype=torch.int64, device="meta")
        counts = count_scopes(model.backbone, model.head, work.input_size)["model"]
        inference = predict_inference(model, image, precision=self.precision)
        training = predict_training_step(
            model,
            self._loss(model, head),
            (batch,),
            labels,
            optimizer=config.optimizer,
            precision=self.precision,
        )
        return Forecast(
            parameters=counts.parameters,
            macs=counts.macs,
            training_memory_bytes=training.peak_bytes + self._further_bytes(training, model),
            inference_memory_bytes=inference.peak_bytes + work.kept_bytes,
        )

    def _loss(self, model: Segmenter, head: HeadConfig) -> Callable[[object, Tensor], Tensor]:
        """Without the terms whose shapes follow from labels, which a prediction does not have."""
        config = self.workload.protocol.train.loss
        plain = config.model_copy(update={"ohem": None, "dice": 0.0, "lovasz": 0.0})
        criterion = _criterion(plain, self.workload.classes, torch.device("cpu"))
        weights = loss_weights(model, head)

        def loss(output: object, labels: Tensor) -> Tensor:
            terms = loss_terms(output, labels, IGNORE, criterion)  # type: ignore[arg-type]
            return weighted_sum(terms, weights)

        return loss

    def _further_bytes(self, training: MemoryPrediction, model: Segmenter) -> int:
        """What a plain step does not hold: averaged weights, gradients of other parts, buckets."""
        config, part = self.workload.protocol.train, model.trained_part
        tensors = [*part.parameters(), *part.buffers()]
        averaged = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        # Gradients of the parts before live during the next one, and once more while several
        # processes exchange them.
        copies = (config.accumulate > 1) + (self.workload.processes > 1)
        return averaged * (config.ema is not None) + copies * training.gradient_bytes

    def _timed(self, predicted: Forecast, head: HeadConfig) -> Forecast:
        try:
            reason = self._too_large(predicted) or self._too_slow(predicted)
            if reason is not None:
                return replace(predicted, untimed=reason)
            step_ms, pass_ms = self._samples(head)
        except (torch.OutOfMemoryError, MemoryError):
            return replace(predicted, untimed="too large for this device: out of memory")
        except RuntimeError as error:
            return replace(predicted, untimed=Failure.of(error).cause)
        work = self.workload
        milliseconds = work.protocol.train.steps * median(step_ms)
        images = math.ceil((work.images or 0) / work.processes)
        milliseconds += images * work.passes * median(pass_ms)
        return replace(predicted, step_ms=step_ms, pass_ms=pass_ms, hours=milliseconds / 3.6e6)

    def _too_large(self, predicted: Forecast) -> str | None:
        needed = max(predicted.training_memory_bytes or 0, predicted.inference_memory_bytes or 0)
        if self._free_bytes is None or needed <= self._free_bytes:
            return None
        return f"too large for this device, which has {self._free_bytes / 2**30:.0f} GiB free"

    def _too_slow(self, predicted: Forecast) -> str | None:
        work, config = self.workload, self.workload.protocol.train
        pass_ms = (predicted.macs or 0) / self._macs_per_ms
        crop_ms = pass_ms * math.prod(config.crop) / math.prod(work.input_size)
        passes = 1 if work.protocol.shared_backbone == "frozen" else TRAINING_PASSES
        step_ms = passes * work.part * config.accumulate * crop_ms
        if (WARMUP + self.steps) * (step_ms + pass_ms) <= 1000 * TIMING_SECONDS:
            return None
        return (
            f"about {_rounded(step_ms / 1000)} s a step and {_rounded(pass_ms / 1000)} s a pass "
            f"here, judged by a small pass; timing may take {TIMING_SECONDS:.0f} s a head"
        )

    @cached_property
    def _free_bytes(self) -> int | None:
        """Asked once, so that all heads are judged alike."""
        return free_bytes(self.device)

    @cached_property
    def _macs_per_ms(self) -> float:
        """Rate of this device in a pass of half a crop's sides with the plainest head.

        That of the fastest of a few, since other work on the device only ever slows one down.
        """
        height, width = (max(1, side // 2) for side in self.workload.protocol.train.crop)
        model = self._built(GAUGE, "cpu").to(self.device)
        image = torch.randn(1, 3, height, width, device=self.device)
        call = forward_call(model, image, self.precision)
        samples = interleaved({0: call}, rounds=GAUGE_ROUNDS, warmup=WARMUP, device=self.device)
        macs = count_scopes(model.backbone, model.head, (height, width))["model"].macs
        return macs / min(samples[0])

    def _samples(self, head: HeadConfig) -> tuple[list[float], list[float]]:
        """Milliseconds of training steps and of passes."""
        work, config = self.workload, self.workload.protocol.train
        model = self._built(head, "cpu")
        recipe = Recipe(
            config=config,
            loss_weights=loss_weights(model, head),
            precision=self.precision,
            device=self.device,
            seed=0,
            identity={},
            criterion=_criterion(config.loss, work.classes, self.device),
        )
        images = work.part * config.accumulate
        batch = torch.randn(images, 3, *config.crop)
        labels = torch.randint(work.classes, (images, *config.crop), dtype=torch.uint8)
        with deterministic(config.deterministic):
            training = Training(model, recipe)
            step_ms = self._sampled(lambda: training.step(device_parts(batch, labels, recipe)))
        image = torch.randn(1, 3, *work.input_size, device=self.device)
        return step_ms, self._sampled(forward_call(model, image, self.precision))

    def _sampled(self, call: Callable[[], object]) -> list[float]:
        sampled = interleaved({0: call}, rounds=self.steps, warmup=WARMUP, device=self.device)
        return sampled[0]

    def _built(self, head: HeadConfig, device: str) -> Segmenter:
        protocol, classes = self.workload.protocol, self.workload.classes
        with torch.device(device):
            return build_model(protocol, head, classes, seed=0, pretrained=False)


def _rounded(value: float) -> str:
    """Two digits, which is all that a rough estimate has."""
    return f"{float(f'{value:.2g}'):g}"


def free_bytes(device: torch.device) -> int | None:
    """Memory of a device that is free now; None where that cannot be asked."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    if device.type != "cpu" or not info.exists():
        return None
    for line in info.read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _criterion(config: LossConfig, classes: int, device: torch.device) -> Criterion:
    """The protocol's losses; class weights are not known yet and do not change any cost."""
    weights = None if config.class_weights is None else torch.ones(classes, device=device)
    return Criterion.of(config, weights)
