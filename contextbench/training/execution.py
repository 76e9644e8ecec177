"""How and where runs execute."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from contextbench.config.files import ConfigError
from contextbench.config.protocols import Protocol
from contextbench.models.device import device_of
from contextbench.system.allocator import ALLOCATOR
from contextbench.system.console import Reporter
from contextbench.system.interrupt import StopRequest, stop_on_signals
from contextbench.training.processes import (
    ALONE,
    World,
    check_shareable,
    joined,
    launched,
    own_device,
)
from contextbench.training.tracking import check_tracker


@dataclass(frozen=True)
class Execution:
    """How and where runs execute: nothing here changes what they measure."""

    out: Path
    device: torch.device
    data_root: Path | None = None
    workers: int = 0
    reporter: Reporter = field(default_factory=Reporter)
    stop: StopRequest = field(default_factory=StopRequest)
    save_seconds: float = 60.0
    world: World = ALONE
    track: str | None = None  # a name of `TRACKERS`


def keep_freed(device: torch.device) -> None:
    """Let this process keep the memory that it frees, where the CPU does the work."""
    if device.type == "cpu":
        ALLOCATOR.keep()


@contextmanager
def executing(
    out: Path,
    device: str,
    data_root: Path | None = None,
    workers: int = 0,
    *,
    shared: Protocol | None = None,
    quiet: bool = False,
    track: str | None = None,
    own_process: bool = False,
) -> Iterator[Execution]:
    """An execution that signals stop, with all processes that torchrun started.

    `shared` is what several processes may train together; `quiet` shows no progress. A process that
    is nobody else's keeps the memory that it frees, where the CPU does the work. Raises
    `ConfigError` for a device that cannot be used, for several processes where they cannot be, and
    for a tracker that cannot.
    """
    check_tracker(track)
    world = launched()
    if world.size > 1 and shared is None:
        raise ConfigError("this command runs in one process: start it without torchrun")
    if shared is not None:
        check_shareable(shared, world)
    place = device_of(own_device(device, world))
    if own_process:
        keep_freed(place)
    with stop_on_signals() as stop, joined(world, place) as world:
        silent = quiet or not world.is_main
        yield Execution(
            out=out,
            device=place,
            data_root=data_root,
            workers=workers,
            reporter=Reporter(Console(quiet=True) if silent else None),
            stop=stop,
            world=world,
            track=track,
        )
