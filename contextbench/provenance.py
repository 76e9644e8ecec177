"""What a number was measured on and with: versions, device, commit. No host names, no paths."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from contextbench import __version__
from contextbench.distributed import ALONE, World, batch_norm_of_all
from contextbench.precision import Precision, float32_products


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(
    device: torch.device, world: World = ALONE, *, precision: Precision = Precision()
) -> dict[str, Any]:
    """Everything about software and hardware that a reader of a measurement may ask for.

    Of several processes that share the work the device is that of the first one.
    """
    with precision.products():
        products = float32_products()
    return {
        "contextbench": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "torchvision", "numpy")},
        "system": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "device_type": device.type,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "float32_products": products,
        **_shared_work(device, world),
    }


def _shared_work(device: torch.device, world: World) -> dict[str, Any]:
    if world.size == 1:
        return {}
    if batch_norm_of_all(world, device):
        return {"processes": world.size, "batch_norm": "statistics of all processes"}
    return {
        "processes": world.size,
        "batch_norm": "warning: each process normalises its own images, since batch norm is "
        "synchronised on GPUs only",
    }


@cache
def device_name(device: torch.device) -> str:
    """Model name of the GPU or the processor, with the number of threads for the latter."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return torch.xpu.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} of {_processor()}"
    return f"{_processor()}, {torch.get_num_threads()} threads"


@cache
def commit() -> str | None:
    """Commit of the checkout that the package runs from, `+` when it has changes; else None."""
    folder = Path(__file__).parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
