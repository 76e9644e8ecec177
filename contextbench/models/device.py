"""The device that a user names, found where the work runs, and waiting for it."""

import platform
from functools import cache
from pathlib import Path

import torch

from contextbench.config.files import ConfigError


def device_of(name: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises `ConfigError` for what cannot be used here.

    So are devices that cannot be waited for: times of them would be those of asking.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name!r} cannot be used here: {reason}") from error
    if device.type != "cpu" and device.type != accelerator():
        raise ConfigError(
            f"--device {name!r} cannot be used here: nothing tells when it has finished its work; "
            f"allowed: auto, cpu{f', {accelerator()}' if accelerator() else ''}"
        )
    return device


def accelerator() -> str | None:
    """The kind of this machine's accelerator; None without one."""
    if not torch.accelerator.is_available():
        return None
    found = torch.accelerator.current_accelerator()
    return None if found is None else found.type


def synchronise(device: torch.device) -> None:
    """Wait until a device has done all that it was asked for."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def release_cache(device: torch.device) -> None:
    """Give memory that nothing uses back to an accelerator, for other processes."""
    if device.type != "cpu":
        module = torch.get_device_module(device)
        if hasattr(module, "empty_cache"):
            module.empty_cache()


@cache
def device_name(device: torch.device) -> str:
    """Model name of the GPU or the processor, with what makes two of one name differ in speed.

    For a processor: the instructions that torch uses, of which a virtual machine may hide some, and
    the number of threads.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return torch.xpu.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} of {_processor()}"
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{_processor()}, {instructions}, {torch.get_num_threads()} threads"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
