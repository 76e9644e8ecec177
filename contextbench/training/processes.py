"""Several processes on one run: who they are, what they tell each other, and what one lost means.

`torchrun` starts the processes; each trains on its part of every batch and evaluates its part of
the images. Process 0 alone reads and writes files, measures and reports. Between steps processes
exchange a few bytes through gloo; gradients and the statistics of batch norm go through NCCL on
GPUs and through gloo on CPUs.
"""

import os
import pickle
import re
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from contextbench.config.files import ConfigError
from contextbench.config.protocols import Protocol
from contextbench.models.segmenter import Segmenter
from contextbench.system.interrupt import RankError
from heads.interface import Averaged

STEP_TIMEOUT = timedelta(minutes=10)  # for one exchange within a step, loading of a batch included
POLL_SECONDS = 0.05  # between looks for processes that start
PATIENCE = timedelta(days=1)  # while process 0 works alone, or evaluates longer than another

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What work came to in one process, in a form that can be sent to another."""

    value: T | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class World:
    """This process among all that work on a run; alone unless said otherwise.

    Every method but the properties has to be called by all processes, in the same order. They raise
    `RankError` when another process ended or does not answer.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    patient: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reads and writes files, measures and reports."""
        return self.rank == 0

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag is true if it is in any process. Costs one small exchange on the CPU."""
        if self.size == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.uint8)
        with lost_ranks(self):
            dist.all_reduce(raised, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in raised)

    def together(self, work: Callable[[], T]) -> list[T]:
        """What `work` returns in each process, by rank.

        Where it raised, the first such error is raised in all processes, so that they go on alike.
        `work` must not talk to other processes.
        """
        if self.size == 1:
            return [work()]
        return [_value(outcome) for outcome in self._exchanged(_outcome(work))]

    def first_error(self, error: Exception | None) -> Exception | None:
        """What the first process met that has an error, in all processes."""
        if self.size == 1:
            return error
        outcomes = self._exchanged(Outcome[None](error=error))
        return next((each.error for each in outcomes if each.error is not None), None)

    def from_main(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises, in process 0; the others wait and do not run it."""
        if self.size == 1:
            return work()
        own: Outcome[T] = _outcome(work) if self.is_main else Outcome()
        outcomes = [_portable(own)]
        with lost_ranks(self):
            dist.broadcast_object_list(outcomes, src=0, group=self.patient)
        return _value(own if self.is_main else outcomes[0])

    def _exchanged(self, own: Outcome[T]) -> list[Outcome[T]]:
        outcomes = [own] * self.size
        with lost_ranks(self):
            dist.all_gather_object(outcomes, _portable(own), group=self.patient)
        outcomes[self.rank] = own  # whose error has its traceback
        return outcomes

    @contextmanager
    def held(self, resource: AbstractContextManager[object]) -> Iterator[None]:
        """`resource`, entered and left by process 0; its refusal is raised in all."""
        with ExitStack() as stack:

            def enter() -> None:
                stack.enter_context(resource)

            self.from_main(enter)
            yield

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over the processes, element by element."""
        if self.size == 1:
            return values
        with lost_ranks(self):
            return _mean_of_all(values)

    def batch_mean(self, total: Tensor, count: Tensor) -> Tensor:
        """This process's part of a mean over the whole batch, 0 where nothing is counted.

        With `total` t_r and `count` c_r of process r of W: W t_r / sum_r c_r. The mean of these
        over the processes, which is what `DistributedDataParallel` makes of their gradients, is
        sum_r t_r / sum_r c_r, that of one process with the whole batch.
        """
        counts = count.detach().clone()
        with lost_ranks(self):
            dist.all_reduce(counts)
        return total * self.size / torch.where(counts > 0, counts, 1)

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model`, whose gradients are averaged over the processes; its state stays without prefix.

        Parameters start as those of process 0, and every one of them has to get a gradient.
        Statistics of batch norm that are not synchronised are those of process 0 in every step;
        running means of other parts are of all.
        """
        if self.size == 1:
            return model
        for part in model.modules():
            if isinstance(part, Averaged):
                part.average = _mean_of_all
        # Of 1x1 convolutions, whose gradients have one of two layouts that are the same in memory.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return DistributedDataParallel(model)

    def spread(self, module: nn.Module) -> None:
        """Give parameters and buffers of process 0 to all."""
        if self.size == 1:
            return
        with lost_ranks(self), torch.no_grad():
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)


ALONE = World()


def launched(environment: Mapping[str, str] = os.environ) -> World:
    """The world that torchrun describes in the environment; alone without it."""
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= environment.keys():
        return ALONE
    rank, size, local = (int(environment[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return World(rank, size, local) if size > 1 else ALONE


def own_device(name: str, world: World) -> str:
    """`--device` in one of several processes: the GPU of its own, or the CPU.

    Raises `ConfigError` for one GPU for all, and where a machine has fewer GPUs than processes.
    """
    if world.size == 1:
        return name
    gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    if name not in ("cuda", "cpu"):
        raise ConfigError(
            f"--device {name!r}: {world.size} processes have a GPU each; allowed: auto, cuda, cpu"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    if name == "cuda" and here > gpus:
        raise ConfigError(
            f"--device cuda: {here} processes on a machine with {gpus} GPUs; start no more than "
            "that with --nproc-per-node, or choose --device cpu"
        )
    return name if name == "cpu" else f"cuda:{world.local_rank}"


def check_shareable(protocol: Protocol, world: World) -> None:
    """Raise `ConfigError` unless each process gets the same number of images of every part.

    The batch is that of all processes together, so that a protocol means the same on any number.
    Heads that are trained at once on one backbone are trained by one process, and so is compiled
    code: torch does not compile batch norm whose statistics are those of several processes.
    """
    config = protocol.train
    alone = {
        f"shared_backbone: {protocol.shared_backbone}": protocol.shared_backbone is not None,
        "train.compile": config.compile,
    }
    if world.size > 1 and any(alone.values()):
        named = next(name for name, wanted in alone.items() if wanted)
        raise ConfigError(
            f"{named} runs in one process, not in {world.size}: start it without torchrun"
        )
    part = config.batch // config.accumulate
    if part % world.size:
        parts = f" in {config.accumulate} parts (train.accumulate)" * (config.accumulate > 1)
        allowed = [str(n) for n in range(1, part + 1) if part % n == 0]
        raise ConfigError(
            f"train.batch {config.batch}{parts} cannot be divided equally over {world.size} "
            f"processes; allowed: {', '.join(allowed)}"
        )


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[World]:
    """Connected to the other processes of `world` for the duration of the block.

    Raises `RankError` when they cannot be reached.
    """
    if world.size == 1:
        yield world
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with lost_ranks(world):
        found = rendezvous("env://", world.rank, world.size, timeout=STEP_TIMEOUT)
        store = meeting_point(next(found)[0], world)
        dist.init_process_group(
            backend, store=store, rank=world.rank, world_size=world.size, timeout=STEP_TIMEOUT
        )
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        assert isinstance(patient, dist.ProcessGroup)
    try:
        yield replace(world, patient=patient)
    except RankError:
        raise  # closing a broken group may wait for the process that is lost
    except BaseException:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def meeting_point(store: Store, world: World) -> Store:
    """A part of `store` that holds nothing yet, the same for all processes.

    torchrun keeps its store when it starts processes again, and with it the addresses of those that
    ended, which the new ones would take for each other's. So each new process writes a name that
    was never used, and process 0 answers under that name where to meet. An answer to the name of a
    process that ended is not read by any other.
    Raises `RankError` when a process does not come.
    """
    own = secrets.token_hex(8)
    if world.is_main:
        _invite(store, world, own)
        return PrefixStore(own, store)
    store.set(f"name/{world.rank}", own)
    place = store.get(f"place/{own}").decode()
    store.set(f"{place}/{world.rank}", "")
    return PrefixStore(place, store)


def _invite(store: Store, world: World, place: str) -> None:
    """Answer the names of the other processes, as long as not all have come."""
    others = range(1, world.size)
    deadline = time.monotonic() + STEP_TIMEOUT.total_seconds()
    while not store.check([f"{place}/{rank}" for rank in others]):
        if time.monotonic() > deadline:
            raise RankError(f"rank 0 of {world.size} stops: not all others came in {STEP_TIMEOUT}")
        for rank in others:
            store.set(f"place/{store.get(f'name/{rank}').decode()}", place)
        time.sleep(POLL_SECONDS)


def _mean_of_all(values: Tensor) -> Tensor:
    """The mean over all processes: a function, not a method, since models are copied with it."""
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def synchronise_batch_norm(model: Segmenter, world: World, device: torch.device) -> None:
    """Let every batch norm of `model` use the statistics of the whole batch, in place.

    PyTorch has this for GPUs only: on the CPU each process normalises its own images.
    """
    if batch_norm_of_all(world, device):
        model.backbone.synchronise_batch_norm()
        nn.SyncBatchNorm.convert_sync_batchnorm(model.head)  # type: ignore[no-untyped-call]


def batch_norm_of_all(world: World, device: torch.device) -> bool:
    """Whether statistics of batch norm come from several processes."""
    return world.size > 1 and device.type == "cuda"


@contextmanager
def lost_ranks(world: World) -> Iterator[None]:
    """Turn the errors of communication into a `RankError`; all others are those of the work."""
    try:
        yield
    except RuntimeError as error:
        if world.size > 1 and _is_lost(error):
            raise _lost(world, error) from error
        raise


@contextmanager
def no_way_back(world: World, *known: type[Exception]) -> Iterator[None]:
    """Turn every error but the `known` ones, which all meet at once, into a `RankError`.

    For work that talks to other processes: they wait for this one within it, and cannot be told.
    """
    try:
        yield
    except Exception as error:
        if world.size == 1 or isinstance(error, (RankError, *known)):
            raise
        if isinstance(error, RuntimeError) and _is_lost(error):
            raise _lost(world, error) from error
        reason = f"{type(error).__name__}: {error}"
        raise RankError(f"rank {world.rank} of {world.size} stops: {reason}", error) from error


def _lost(world: World, error: RuntimeError) -> RankError:
    # gloo puts its line of source before the reason, and advice behind it.
    reason = re.sub(r"^\[[^]]*/gloo/[^]]*\] ", "", str(error).splitlines()[0]).split(". ")[0]
    return RankError(
        f"rank {world.rank} of {world.size} stops: another process ended or does not answer "
        f"({reason})"
    )


def _is_lost(error: RuntimeError) -> bool:
    # Errors of NCCL and of the store have a class of their own, those of gloo only their text.
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def _outcome(work: Callable[[], T]) -> Outcome[T]:
    try:
        return Outcome(work())
    except Exception as error:
        return Outcome(error=error)


def _portable(outcome: Outcome[T]) -> Outcome[T]:
    """With an error that survives being sent: some classes cannot be made from their message."""
    error = outcome.error
    if error is None:
        return outcome
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return Outcome(error=RuntimeError(f"{type(error).__name__}: {error}"))
    return outcome


def _value(outcome: Outcome[T]) -> T:
    if outcome.error is not None:
        raise outcome.error
    return outcome.value  # type: ignore[return-value]
