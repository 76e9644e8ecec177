"""What a number was measured on and with, as records state it."""

from typing import Any

import torch

from contextbench.models.device import device_name
from contextbench.models.precision import Precision, float32_products
from contextbench.records.provenance import software
from contextbench.system.allocator import ALLOCATOR
from contextbench.training.processes import ALONE, World, batch_norm_of_all


def environment(
    device: torch.device, world: World = ALONE, *, precision: Precision = Precision()
) -> dict[str, Any]:
    """Everything about software and hardware that a reader of a measurement may ask for.

    Of several processes that share the work the device is that of the first one.
    """
    with precision.products():
        products = float32_products()
    return {
        **software(),
        "device": device_name(device),
        "device_type": device.type,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "float32_products": products,
        "allocator": ALLOCATOR.setting,
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
