"""How many windows of an evaluation go through a GPU at once, by prediction alone.

Predicted for one shape and one model, so that the same machine always takes the same number.
"""

from functools import partial

import torch

from contextbench.evaluation.batches import Fitting
from contextbench.measure.memory import predict_inference
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter

SHARE = 0.5  # of a GPU's memory; the rest is for workspaces, other models and what else runs there


def fitting(device: torch.device, precision: Precision) -> Fitting | None:
    """What fits `device`; None on a CPU, where several windows at once take as long as in turn."""
    if device.type != "cuda":
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    return partial(windows_within, int(SHARE * total), precision=precision)


def windows_within(
    budget: int, model: Segmenter, shape: tuple[int, int, int, int], *, precision: Precision
) -> int:
    """Batches of images (N, 3, h, w) that take no more than `budget` bytes at once, or one.

    Weights are there once; all else grows with the number of images.
    """
    images = torch.empty(shape, device="meta")
    truth = torch.empty(shape[0], *shape[2:], dtype=torch.uint8, device="meta")
    labels = (truth,) if model.needs_labels else ()
    found = predict_inference(model, images, *labels, precision=precision)
    each = found.peak_bytes - found.weights_bytes
    return max(1, (budget - found.weights_bytes) // each)
