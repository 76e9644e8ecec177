"""How and where runs execute."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from contextbench.system.console import Reporter
from contextbench.system.interrupt import StopRequest
from contextbench.training.processes import ALONE, World


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
