"""What each of two processes does in `test_distributed`.

    python -m tests.ranks TASK,TASK FOLDER     two forked processes a task, task after task
    torchrun ... -m tests.ranks TASK FOLDER    one of the processes that torchrun starts
    python -m tests.ranks                      losses of one process beside those of two

Forked processes share the import of torch, which takes longer than all the tasks. What each prints
goes to FOLDER/TASK-RANK.txt, exit codes are printed, one line a task.
"""

import dataclasses
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.protocols import DatasetConfig
from contextbench.config.training import OhemConfig
from contextbench.data import build_dataset
from contextbench.data.base import DataError
from contextbench.data.stream import TrainStream, train_loader
from contextbench.data.transforms import TrainTransform
from contextbench.evaluation.counting import evaluate
from contextbench.evaluation.prediction import Predictor
from contextbench.models.build import build_model, loss_weights
from contextbench.models.precision import Precision
from contextbench.runs.cells import open_setting
from contextbench.runs.grid import run_grid
from contextbench.system.interrupt import Interrupted, RankError, StopRequest, stop_on_signals
from contextbench.training import loop as training
from contextbench.training.losses import Criterion
from contextbench.training.processes import ALONE, World, joined, launched
from heads import HEADS
from tests import small

CPU = torch.device("cpu")
PATIENCE = 90.0  # seconds for a task, most of which take less than one
CLASSES = 13
RECIPES = {
    "plain": ({}, Criterion()),
    "clipped, averaged": ({"clip_norm": 0.5, "ema": 0.5}, Criterion()),
    "in parts": ({"accumulate": 2}, Criterion()),
    "weighted": ({}, Criterion(torch.linspace(0.2, 2.0, CLASSES), label_smoothing=0.1)),
    # More pixels are below the threshold than are to be kept: it alone decides in every process.
    "hard pixels": ({}, Criterion(ohem=OhemConfig(threshold=0.07, keep=2))),
}


class Sum(torch.autograd.Function):
    """The sum over processes; so is its gradient."""

    @staticmethod
    def forward(_context, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class AllNorm(nn.Module):
    """Batch norm over the images of all processes, which PyTorch has on GPUs only."""

    def __init__(self, norm: nn.BatchNorm2d, processes: int) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps, self.processes = norm.eps, processes

    def forward(self, x: Tensor) -> Tensor:
        over = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = self.processes * x.numel() // x.shape[1]
        mean = Sum.apply(x.sum(over)) / count
        centred = x - mean.view(shape)
        variance = Sum.apply((centred**2).sum(over)) / count
        scaled = centred / (variance + self.eps).sqrt().view(shape)
        return scaled * self.weight.view(shape) + self.bias.view(shape)


def all_norms(module: nn.Module, world: World, _device: torch.device) -> None:
    """The place of `synchronise_batch_norm` on the CPU."""
    for name, part in module.named_children():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, AllNorm(part, world.size))
        else:
            all_norms(part, world, _device)


class PartlyLabelled(TrainStream):
    """Item k has labels in k % 8 eighths of its rows only: processes count different pixels."""

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        image, labels = super().__getitem__(item)
        rows = torch.arange(len(labels))[:, None] * 8 // len(labels)
        return image, torch.where(rows < item % 8, labels, 255)


def prepared(world: World, head: str, config: dict, criterion: Criterion, **options):
    """Model, batches and recipe of `training.train`, in one process or in each of several."""
    protocol = small.protocol(batch=8, **config)
    train = protocol.train
    model = build_model(protocol, small.head(head, **options), CLASSES, seed=0)
    recipe = training.Recipe(
        config=train,
        loss_weights=loss_weights(model, small.head(head)),
        precision=Precision(),
        device=CPU,
        seed=0,
        identity={"run": "same"},
        criterion=criterion,
        world=world,
    )
    dataset = build_dataset(protocol.dataset, "train", None)
    transform = TrainTransform(crop=train.crop, scale=train.scale, flip=True, jitter=0.0)
    stream = PartlyLabelled(dataset, transform, seed=0, length=train.steps * train.batch)

    def batches(start):
        return train_loader(
            stream, batch=8, start_step=start, workers=0, rank=world.rank, processes=world.size
        )

    return model, batches, recipe


def trained(world: World, *prepare, **options):
    """History and weights after two steps of the head, without dropout."""
    model, *others = prepared(world, *prepare, dropout=0.0, **options)
    progress = training.train(model, *others)
    return progress.history, {key: p.detach().clone() for key, p in model.named_parameters()}


def first_steps(world: World) -> dict:
    """Two steps of EncNet, which has pixel and image losses, with every recipe, and of every head.

    The second step fails where a parameter got no gradient in the first.
    """
    recipes = {
        name: trained(world, "encnet", {"steps": 2, **config}, criterion)
        for name, (config, criterion) in RECIPES.items()
    }
    heads = {head: trained(world, head, {"steps": 2}, Criterion()) for head in HEADS}
    ideal = trained(world, "ocr", {"steps": 2}, Criterion(), ground_truth_regions=True)
    return {**recipes, **heads, "ideal regions": ideal}


class Images:
    """So many images; number `broken` cannot be read."""

    def __init__(self, count: int, broken: int | None = None) -> None:
        options = {"size": 64, "train_images": 1, "eval_images": count}
        config = small.protocol().dataset.model_copy(update={"options": options})
        self.dataset = build_dataset(config, "val", None)
        self.labels, self.broken = self.dataset.labels, broken

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        if index == self.broken:
            raise DataError(f"image {index} cannot be read")
        return self.dataset[index]


def evaluated(world: World, count: int, broken: int | None = None):
    """Counts of an untrained model on corrupted images, with everything that a view can count."""
    protocol = small.protocol()
    config = EvaluateConfig.model_validate(
        {
            "confusion": True, "calibration": True, "boundary": True, "trimap": [1, 3],
            "corrupt": {"kind": "noise", "strength": 2},
        }
    )  # fmt: skip
    model = build_model(protocol, small.head("ppm"), CLASSES, seed=0)
    predictor = Predictor([model], CPU, Precision(), config, tuple(range(CLASSES)))
    return evaluate(predictor, Images(count, broken), world=world)


def told(work) -> str:
    """What is raised, in words."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def broken_batch(world: World) -> str:
    """A batch that cannot be loaded in the second process."""
    model, batches, recipe = prepared(world, "fcn", {"steps": 3}, Criterion())

    def failing(start):
        for number, batch in enumerate(batches(start)):
            if number == 1 and world.rank == 1:
                raise DataError("image 7 cannot be read")
            yield batch

    return told(lambda: training.train(model, failing, recipe))


def one_stop(world: World) -> tuple[str, int]:
    """A stop that the second process alone is asked for; what is raised, and after which step."""
    stop, seen = StopRequest(), []
    model, batches, recipe = prepared(world, "fcn", {"steps": 30}, Criterion())

    def stopping(start):
        for number, batch in enumerate(batches(start)):
            stop.requested = world.rank == 1 and number == 2
            yield batch

    raised = told(
        lambda: training.train(
            model, stopping, recipe, stop=stop, on_flush=lambda p: seen.append(p.step)
        )
    )
    return raised, seen[-1]


def grid(world: World, out: Path, stop: StopRequest | None = None, **train):
    """One cell of six steps below `out`, saved after every step."""
    protocol = small.protocol(steps=6, batch=4, ema=0.9, **train)
    execution = dataclasses.replace(small.execution(out), world=world, stop=stop or StopRequest())
    setting = open_setting(protocol, None)
    return run_grid(setting, [small.head("fcn")], [0], Precision(), execution)


def other_data(world: World, out: Path) -> str:
    """The second process has other files."""
    setting = open_setting(small.protocol(), None)
    options = {"size": 64, "train_images": 8 + world.rank, "eval_images": 3}
    other = build_dataset(DatasetConfig(name="probe", options=options), "train", None)
    own = dataclasses.replace(setting, train_set=other)
    execution = dataclasses.replace(small.execution(out), world=world)
    return told(lambda: run_grid(own, [small.head("fcn")], [0], Precision(), execution))


def checks(world: World, out: Path) -> None:
    """All that needs no process to end; what each process saw goes to a file of its own."""
    seen = {
        "five images": evaluated(world, 5),
        "one image": evaluated(world, 1),
        "broken image": told(lambda: evaluated(world, 5, broken=3)),
        "broken batch": broken_batch(world),
        "one stop": one_stop(world),
        "other data": other_data(world, out),
        "from main": told(lambda: world.from_main(lambda: int(f"rank {world.rank}"))),
        "together": told(lambda: world.together(lambda: 1 // (1 - world.rank))),
        "agreed": world.agree(world.rank == 1, False),
        "batch mean": world.batch_mean(torch.tensor(3.0), torch.tensor(1 + 4 * world.rank)),
        "records": grid(world, out / f"undisturbed-{world.rank}"),
        "watched": grid(world, out / "watched", watch={"every": 4, "images": 3}),
    }
    training.synchronise_batch_norm = all_norms
    seen["first steps"] = first_steps(world)
    torch.save(seen, out / f"seen-{world.rank}.pt")


def disturbed(at: int, act) -> list[int]:
    """Call `act` in the step of this number, counted from 1, before it changes anything.

    Returns what has as many entries as steps began.
    """
    real, steps = training.train_step, []

    def step(*arguments):
        steps.append(1)
        if len(steps) == at:
            act()
        return real(*arguments)

    training.train_step = step
    return steps


def memory(world: World, out: Path) -> None:
    """The second process runs out of memory in its second step."""

    def fail() -> None:
        if world.rank == 1:
            raise torch.OutOfMemoryError("no memory for 3 TiB")

    disturbed(2, fail)
    grid(world, out / "memory")


def killed(world: World, out: Path) -> None:
    """The second process is killed in its third step, unless torchrun started it again."""

    def kill() -> None:
        if world.rank == 1 and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            os.kill(os.getpid(), signal.SIGKILL)

    steps = disturbed(3, kill)
    grid(world, out / "killed")
    if world.is_main:
        (out / "steps").write_text(str(len(steps)))


def stopped(world: World, out: Path) -> None:
    """Both processes get the signal of Ctrl-C in the third step."""
    with stop_on_signals() as request:
        disturbed(3, lambda: os.kill(os.getpid(), signal.SIGINT))
        grid(world, out / "stopped", request)


def resumed(world: World, out: Path) -> None:
    """What `stopped` and `killed` left goes on."""
    steps = disturbed(0, None)
    grid(world, out / "stopped")
    grid(world, out / "killed")
    if world.is_main:
        (out / "steps").write_text(str(len(steps)))


TASKS = {task.__name__: task for task in (checks, memory, killed, stopped, resumed)}


def run(task: str, out: Path) -> int:
    """One task in one process; its exit code is that of the command line."""
    try:
        with joined(launched(), CPU) as world:
            TASKS[task](world, out)
    except RankError as error:
        print(error, file=sys.stderr)
        return 1
    except Interrupted:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def fork(task: str, out: Path) -> list[int | None]:
    """Exit codes of a task in two processes; the number of its signal, negative, ends one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pair = [context.Process(target=_rank, args=(task, out, rank, port)) for rank in range(2)]
    for process in pair:
        process.start()
    deadline = time.monotonic() + PATIENCE
    for process in pair:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in pair]  # None: it hangs
    for process in pair:
        process.kill()
    return codes


def _rank(task: str, out: Path, rank: int, port: int) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, **address}
    os.environ.update({key: str(value) for key, value in world.items()})
    with (out / f"{task}-{rank}.txt").open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(run(task, out))


def side_by_side() -> None:
    """Print the losses of one process with batch 8 beside those of two with batch 4 each."""
    alone = first_steps(ALONE)
    with tempfile.TemporaryDirectory() as out:
        fork("checks", Path(out))
        two = torch.load(Path(out) / "seen-0.pt", weights_only=False)["first steps"]
    print("| steps of | one process, batch 8 | two processes, batch 4 each |\n|---|---|---|")
    for name, (history, _) in alone.items():
        losses = [", ".join(f"{e['loss']:.7f}" for e in each) for each in (history, two[name][0])]
        print(f"| {name} | {losses[0]} | {losses[1]} |")


def main(tasks: str = "", folder: str = "") -> int:
    if not tasks:
        side_by_side()
    elif launched() is not ALONE:
        return run(tasks, Path(folder))
    else:
        for task in tasks.split(","):
            print(task, *fork(task, Path(folder)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
