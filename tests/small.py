"""A protocol that runs in seconds: tiny probe images, a tiny backbone, narrow heads."""

from pathlib import Path

import torch
from rich.console import Console

from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.system.console import Reporter
from contextbench.system.interrupt import StopRequest
from contextbench.training.execution import Execution

SETTINGS = (
    "dataset.options.size=64",
    "dataset.options.train_images=8",
    "dataset.options.eval_images=3",
    "backbone.width=8",
    "head_width_factor=0.02",
    "train.crop=[64,64]",
    "train.batch=2",
    "train.steps=4",
    "precision=float32",
)


def protocol(**train: object) -> Protocol:
    """The tiny protocol, with changed training settings."""
    settings = {"crop": (64, 64), "scale": (1.0, 1.0), "batch": 2, "steps": 4, "lr": 0.01}
    options = {"size": 64, "train_images": 8, "eval_images": 3}
    return Protocol.model_validate(
        {
            "name": "tiny",
            "dataset": {"name": "probe", "options": options},
            "backbone": {"name": "resnet10", "width": 8},
            "head_width_factor": 0.02,
            "train": {**settings, **train},
            "precision": "float32",
        }
    )


def head(name: str = "fcn", **options: object) -> HeadConfig:
    """A registered head with its default options."""
    return HeadConfig(name=name, head=name, options=options)


def execution(out: Path, stop: StopRequest | None = None) -> Execution:
    """On the CPU, silent, saving after every step."""
    return Execution(
        out=out,
        device=torch.device("cpu"),
        reporter=Reporter(Console(quiet=True)),
        save_seconds=0.0,
        stop=stop or StopRequest(),
    )
