"""Whether loading keeps up with training: how fast either is alone, and how they go together.

Stages of loading are timed in this process. Loaders and training take turns, A B C A B C ..., so
that a disturbance meets all alike.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.data import default_collate

from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.data import SegmentationDataset, dataset_source
from contextbench.data.ahead import PREFETCH, iterating, one_thread
from contextbench.data.generated import IMAGES, PNG_DATASETS, GeneratedDataset
from contextbench.data.paired import MissingFiles
from contextbench.data.sizes import image_sizes
from contextbench.data.stream import TrainStream, train_loader, train_stream
from contextbench.models.build import build_model, loss_weights
from contextbench.models.device import synchronise
from contextbench.models.precision import Precision
from contextbench.records.loading import LoaderRecord, Pace, WorkersPace
from contextbench.training.environment import environment
from contextbench.training.execution import Execution
from contextbench.training.loop import Batch, Recipe, Training, deterministic, device_parts
from contextbench.training.losses import Criterion
from contextbench.training.waiting import BatchWait

WARMUP = 1  # batches of which stages are not kept
LEAST_RATE = 1e-6  # of learning: a few steps on a new model must not diverge, and cost the same

Clock = Callable[[], float]


@dataclass(frozen=True)
class LoaderRequest:
    """What to measure: `steps` batches a round and setting, of training too if there is a head."""

    protocol: Protocol
    head: HeadConfig | None
    workers: Sequence[int]
    rounds: int = 3
    steps: int = 4
    image_size: tuple[int, int] | None = None  # generate images of this size
    precision: Precision = field(default_factory=Precision)


def profile_loader(request: LoaderRequest, execution: Execution) -> LoaderRecord:
    """Measure with the protocol's training split or, where it is not here, with generated images.

    Raises `ConfigError` where images are to be generated and no size is known, `DataError` for what
    is wrong with the data.
    """
    with _dataset(request, execution) as (dataset, described):
        config = request.protocol.train
        height, width = image_sizes(dataset).median
        bench = _Bench(request, execution, dataset)
        bench.run()
        return LoaderRecord(
            protocol_name=request.protocol.name,
            head=request.head.name if request.head else None,
            data=described,
            image_size=(height, width),
            crop=config.crop,
            batch=config.batch,
            pinned=bench.pinned,
            precision=asdict(request.precision),
            environment=environment(execution.device, precision=request.precision),
            stage_seconds=bench.stages,
            trainer=bench.trainer,
            loaders=bench.loaders,
        )


@contextmanager
def _dataset(
    request: LoaderRequest, execution: Execution
) -> Iterator[tuple[SegmentationDataset, str]]:
    """What is loaded, and in words what that is."""
    config = request.protocol.dataset
    source = dataset_source(config, execution.data_root)
    size = request.image_size
    if size is None:
        try:
            dataset = source.open(config.train)
            yield dataset, f"{source.facts.name} {config.train}, {len(dataset)} images"
            return
        except MissingFiles as error:
            size = source.facts.size
            if size is None:
                raise ConfigError(
                    f"{error}. To load generated images instead give their size, since those of "
                    f"{source.facts.name} differ: --image 512x683"
                ) from error
    suffix = ".png" if config.name in PNG_DATASETS else ".jpg"
    described = f"{IMAGES} generated images ({suffix[1:].upper()})"
    execution.reporter.say(f"drawing {described} of {size[0]}x{size[1]}")
    with TemporaryDirectory(prefix="contextbench-") as folder:
        yield GeneratedDataset(Path(folder), source.facts.labels, size, suffix=suffix), described


class _Bench:
    """The measurements, one after another."""

    def __init__(
        self, request: LoaderRequest, execution: Execution, dataset: SegmentationDataset
    ) -> None:
        self.request, self.execution = request, execution
        self.pinned = execution.device.type == "cuda"
        self.stages: dict[str, list[float]] = {}
        self.trainer: list[Pace] = []
        self._loading: dict[int, list[Pace]] = {workers: [] for workers in request.workers}
        self._training: dict[int, list[Pace]] = {workers: [] for workers in request.workers}
        steps = _longest(request)
        self._config = request.protocol.train.model_copy(update={"steps": steps})
        self._stream = train_stream(self._config, dataset, seed=0)

    @property
    def loaders(self) -> list[WorkersPace]:
        return [
            WorkersPace(workers=workers, loading=loading, training=self._training[workers])
            for workers, loading in self._loading.items()
        ]

    def run(self) -> None:
        request = self.request
        training = self._built(request.head) if request.head else None
        with self.execution.reporter.task("time loading and training", request.rounds) as update:
            self.stages = time_stages(self._stream, self._config.batch, request.rounds)
            for done in range(request.rounds):
                for workers, paces in self._loading.items():
                    self.execution.stop.check()
                    update(done, f"loading, {workers} workers")
                    lead, steps = lead_of(workers), steps_of(request.steps, workers)
                    paces.append(loading_pace(self._loader(workers), steps, lead=lead))
                if training is not None:
                    self._train(training, partial(update, done))
                update(done + 1, "")

    def _train(self, training: Training, tell: Callable[[str], None]) -> None:
        """A round of training: on one batch that is there already, then with each loader."""
        wanted, batch = self.request.steps, next(iter(self._loader(0)))
        with deterministic(self._config.deterministic):
            tell("training alone")
            self.trainer.append(training_pace(training, repeat(batch), wanted, lead=1))
            for workers, paces in self._training.items():
                self.execution.stop.check()
                tell(f"training, {workers} workers")
                lead, steps = lead_of(workers), steps_of(wanted, workers)
                paces.append(training_pace(training, self._loader(workers), steps, lead=lead))

    def _loader(self, workers: int) -> Iterable[Batch]:
        return train_loader(
            self._stream,
            batch=self._config.batch,
            start_step=0,
            workers=workers,
            pin_memory=self.pinned,
        )

    def _built(self, head: HeadConfig) -> Training:
        protocol, device = self.request.protocol, self.execution.device
        classes = len(self._stream.dataset.labels.classes)
        model = build_model(protocol, head, classes, seed=0, pretrained=False)
        loss = protocol.train.loss
        weights = None if loss.class_weights is None else torch.ones(classes, device=device)
        recipe = Recipe(
            config=self._config.model_copy(update={"lr": LEAST_RATE, "steps": 10**9}),
            loss_weights=loss_weights(model, head),
            precision=self.request.precision,
            device=device,
            seed=0,
            identity={},
            criterion=Criterion.of(protocol, weights),
        )
        return Training(model, recipe)


def lead_of(workers: int) -> int:
    """Batches before the clock starts: each worker starts up, and has its first one early."""
    return max(1, workers)


def steps_of(steps: int, workers: int) -> int:
    """`steps` or a few more, as many for each worker: they finish their batches in turns."""
    return -(-steps // lead_of(workers)) * lead_of(workers)


def _longest(request: LoaderRequest) -> int:
    """Steps of a stream on which no worker runs out of work before the clock stops."""
    return max(
        lead_of(workers) * (1 + PREFETCH) + steps_of(request.steps, workers)
        for workers in request.workers
    )


def time_stages(
    stream: TrainStream, batch: int, rounds: int, *, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds that one process spends on each stage of a batch, for `rounds` batches.

    `decode` is reading image and mask, with the check of labels; `augment` all that makes a crop of
    them; `collate` is putting the crops of a batch into one tensor.
    """
    samples: dict[str, list[float]] = {"decode": [], "augment": [], "collate": []}
    with one_thread():
        for number in range(WARMUP + rounds):
            decode = augment = 0.0
            crops = []
            for item in range(batch):
                item = (number * batch + item) % len(stream)
                began = clock()
                sample = stream.read(item)
                read = clock()
                crops.append(stream.augment(item, sample))
                decode, augment = decode + read - began, augment + clock() - read
            began = clock()
            default_collate(crops)
            if number >= WARMUP:
                seconds = (decode, augment, clock() - began)
                for kept, each in zip(samples.values(), seconds, strict=True):
                    kept.append(each)
    return samples


def loading_pace(
    batches: Iterable[Batch], steps: int, *, lead: int, clock: Clock = time.perf_counter
) -> Pace:
    """`steps` batches after `lead` first ones, asked for as fast as they come: all is waiting."""
    with iterating(batches) as coming:
        for _ in islice(coming, lead):
            pass
        began = clock()
        images = sum(len(labels) for _, labels in islice(coming, steps))
        seconds = clock() - began
    return Pace(images=images, seconds=seconds, wait_seconds=seconds)


def training_pace(
    training: Training,
    batches: Iterable[Batch],
    steps: int,
    *,
    lead: int,
    clock: Clock = time.perf_counter,
) -> Pace:
    """`steps` steps of training after `lead` first ones, from an idle device to an idle one."""
    wait = BatchWait(training.recipe.device)

    def train(coming: Iterator[Batch], count: int) -> tuple[int, float]:
        images, waited = 0, 0.0
        for batch in islice(coming, count):
            training.step(device_parts(*batch, training.recipe))
            wait.step_ended()
            images, waited = images + len(batch[1]), waited + wait.seconds
        synchronise(training.recipe.device)
        return images, waited

    with iterating(batches) as drawn:
        coming = wait.each(drawn)
        train(coming, lead)
        began = clock()
        images, waited = train(coming, steps)
        seconds = clock() - began
    return Pace(images=images, seconds=seconds, wait_seconds=waited)
