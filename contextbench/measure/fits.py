"""What fits into a memory: the largest square input and the largest batch, by prediction alone.

Every candidate is predicted as plans and costs predict it. The search keeps a number that fits and
one that does not until they are neighbours, so the answer and its neighbour have been predicted
themselves; only how many are tried depends on how memory grows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import NamedTuple

from contextbench.config.amounts import amount_text
from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.measure.memory import STATE_COPIES
from contextbench.measure.passes import LARGEST_VIEW, HeadMemory, Size, Workload
from contextbench.measure.profile import Timing
from contextbench.records.failures import Failure
from contextbench.records.fits import FitsRecord, HeadFits, Largest, Varied, Work
from contextbench.training.environment import environment

MOST_SIDE = int(LARGEST_VIEW**0.5)  # pixels
MOST_BATCH = 4096
PATIENCE = 8  # predictions after which the search halves what is left
SEARCHES: tuple[tuple[Work, Varied], ...] = (
    ("inference", "side"),
    ("inference", "batch"),
    ("training", "side"),
    ("training", "batch"),
)
Starts = dict[tuple[Work, Varied], int]
DEGREE: Mapping[Varied, int] = {"side": 2, "batch": 1}  # power with which memory grows, about


class Found(NamedTuple):
    """The largest number that fits, 0 for none, and the bytes of every one that was predicted."""

    largest: int
    known: Mapping[int, int]


def fits_of(
    work: Workload, heads: Sequence[HeadConfig], budget_bytes: int, timing: Timing
) -> FitsRecord:
    """What fits of every head. One that cannot be predicted is a row with a reason.

    Raises `ConfigError` for wrong options and for a memory that the weights of a head fill.
    """
    memories = {head.name: _memory(work, head) for head in heads}
    _check_weights(memories, budget_bytes)
    step = work.protocol.backbone.output_stride
    starts: Starts = {}  # where the head before ended
    found: dict[str, HeadFits] = {}
    done = 0
    with timing.task("predict what fits", len(SEARCHES) * len(heads)) as progress:
        for head in heads:
            memory = memories[head.name]
            if isinstance(memory, Failure):
                found[head.name] = HeadFits(failure=memory)
                done += len(SEARCHES)
                continue
            rows = []
            for each in SEARCHES:
                search = _Search(work, head, memory, *each, partial(progress, done))
                rows.append(search.largest(budget_bytes, starts))
                done += 1
                progress(done)
            found[head.name] = HeadFits(weights_bytes=memory.weights_bytes, found=rows)
    return FitsRecord(
        budget_bytes=budget_bytes,
        protocol=work.protocol.model_dump(mode="json"),
        classes=work.classes,
        side_step=step,
        most_side=MOST_SIDE // step * step,
        most_batch=MOST_BATCH,
        precision=asdict(work.precision),
        environment=environment(timing.device, precision=work.precision),
        heads=found,
    )


def largest_within(
    budget: int,
    predict: Callable[[int], int],
    *,
    most: int,
    start: int,
    degree: int = 1,
    empty: int = 0,
) -> Found:
    """The largest number from 1 to `most` with a prediction within `budget`, and all predictions.

    Its neighbour above has been predicted too and exceeds the budget, unless there is none.
    Candidates, from `start` on, are those of a prediction that is linear in the power `degree`,
    and `empty` at 0.
    """
    known: dict[int, int] = {}
    low, high = 0, most + 1  # what fits, what does not
    while high - low > 1:
        if len(known) < PATIENCE:
            points = {0: empty, **known}
            guess = _interpolated(budget, points, low, high, degree) if known else start
        else:
            guess = (low + high) // 2
        candidate = min(max(guess, low + 1), high - 1)
        known[candidate] = predict(candidate)
        if known[candidate] <= budget:
            low = candidate
        else:
            high = candidate
    return Found(low, known)


def _interpolated(budget: int, points: Mapping[int, int], low: int, high: int, degree: int) -> int:
    """Where the line through two points reaches the budget: those that enclose it, or the last."""
    first, second = (low, high) if high in points else sorted(points)[-2:]
    rise = points[second] - points[first]
    if rise <= 0:
        return (low + high) // 2
    share = (budget - points[first]) / rise
    power = first**degree + share * (second**degree - first**degree)
    return int(max(power, 0.0) ** (1 / degree) + 1e-9)


class _Search:
    """One search of one head; `watch` is called before every prediction."""

    def __init__(
        self,
        work: Workload,
        head: HeadConfig,
        memory: HeadMemory,
        kind: Work,
        varied: Varied,
        watch: Callable[[], None],
    ) -> None:
        self._work, self._head, self._memory = work, head, memory
        self._kind, self._varied, self._watch = kind, varied, watch
        self._step = work.protocol.backbone.output_stride if varied == "side" else 1
        self._shared_single = False  # whether one image trains as one of two processes

    def largest(self, budget: int, starts: Starts) -> Largest:
        """What is found, from where `starts` says, in which it is entered."""
        most = (MOST_SIDE if self._varied == "side" else MOST_BATCH) // self._step
        try:
            found = largest_within(
                budget,
                self._bytes,
                most=most,
                start=starts.get((self._kind, self._varied)) or self._first_start(starts),
                degree=DEGREE[self._varied],
                empty=self._empty_bytes,
            )
        except ConfigError:
            raise
        except (RuntimeError, ValueError) as error:
            return Largest(work=self._kind, varied=self._varied, failure=Failure.of(error))
        starts[self._kind, self._varied] = found.largest
        after = found.largest + 1 if found.largest < most else None
        single = self._varied == "side" or found.largest == 1
        return Largest(
            work=self._kind,
            varied=self._varied,
            largest=found.largest * self._step or None,
            predicted_bytes=found.known.get(found.largest),
            next=None if after is None else after * self._step,
            next_bytes=None if after is None else found.known[after],
            processes=2 if self._shared_single and single else 1,
        )

    def _first_start(self, starts: Starts) -> int:
        """Of the first head: a crop's area, and then as many crops as the found side has room."""
        area, stride = math.prod(self._work.protocol.train.crop), self._step
        if self._varied == "side":
            return math.isqrt(area) // stride
        side = starts.get((self._kind, "side"), 1) * self._work.protocol.backbone.output_stride
        return side**2 // area

    @property
    def _empty_bytes(self) -> int:
        """Without any image, about: weights; to train, their gradients and the optimiser's too."""
        copies = 2 + STATE_COPIES[self._work.protocol.train.optimizer]
        return self._memory.weights_bytes * (copies if self._kind == "training" else 1)

    def _bytes(self, number: int) -> int:
        self._watch()
        side = number * self._step
        if self._varied == "side":
            images, size = 1, (side, side)
        else:
            images, size = number, self._work.protocol.train.crop
        if self._kind == "inference":
            return self._memory.inference_bytes(sized(self._work, images, size), images)
        return self._training_bytes(images, size)

    def _training_bytes(self, images: int, size: Size) -> int:
        """Of a step. One image that a batch norm cannot train on is that of one of two processes.

        A batch norm over one value a channel raises ValueError.
        """
        own = images > 1 or self._work.batch_norm != "own images"
        if own or not self._shared_single:
            try:
                return self._memory.training_bytes(sized(self._work, images, size))
            except ValueError:
                if own:
                    raise
        found = self._of_two.training_bytes(sized(self._work_of_two, images, size))
        self._shared_single = True
        return found

    @property
    def _work_of_two(self) -> Workload:
        return replace(self._work, processes=2)

    @cached_property
    def _of_two(self) -> HeadMemory:
        return HeadMemory(self._work_of_two, self._head)


def sized(work: Workload, images: int, size: Size) -> Workload:
    """With so many images of this size in a process's part of a batch, and in evaluation."""
    train = work.protocol.train
    batch = images * train.accumulate * work.processes
    changed = train.model_copy(update={"crop": size, "batch": batch})
    protocol = work.protocol.model_copy(update={"train": changed})
    return replace(work, image_size=size, protocol=protocol)


def _memory(work: Workload, head: HeadConfig) -> HeadMemory | Failure:
    try:
        return HeadMemory(work, head)
    except ConfigError:
        raise
    except (RuntimeError, ValueError) as error:
        return Failure.of(error)


def _check_weights(memories: Mapping[str, HeadMemory | Failure], budget: int) -> None:
    """Raise `ConfigError` where weights alone are too large, naming the heads."""
    weights = {
        name: memory.weights_bytes
        for name, memory in memories.items()
        if not isinstance(memory, Failure)
    }
    too_large = {name: size for name, size in weights.items() if size > budget}
    if too_large:
        named = ", ".join(f"{name} {amount_text(size)}" for name, size in too_large.items())
        raise ConfigError(
            f"--fits {amount_text(budget)}: less than the weights of the model with {named}; allow "
            "more, or leave these heads out with --heads"
        )
