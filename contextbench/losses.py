"""Named loss terms of a head's output, the same loop for every head.

Axes: N images, K classes, (H, W) label pixels, (h, w) feature pixels. Labels are (N, H, W), uint8
or int64, with train ids and one value to ignore. All losses are computed in float32, under autocast
too: bfloat16 has fewer than three significant digits, too few for a loss curve.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from contextbench.data.base import IGNORE
from contextbench.model import resize_logits
from heads.interface import HeadOutput


def pixel_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """Cross-entropy of logits (N, K, h, w) resized to the labels, averaged over labelled pixels.

    A batch without a labelled pixel gives exactly 0 with zero gradients: it teaches nothing, and a
    NaN would end the run for an unlucky crop.
    """
    with torch.autocast(logits.device.type, enabled=False):
        resized = resize_logits(logits.float(), (labels.shape[-2], labels.shape[-1]))
        total = F.cross_entropy(resized, labels.long(), ignore_index=ignore_index, reduction="sum")
        return total / (labels != ignore_index).sum().clamp(min=1)


def presence_loss(logits: Tensor, labels: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """Binary cross-entropy of logits (N, K) with the set of classes present in each crop.

    The SE-loss of EncNet (Zhang et al., CVPR 2018, arXiv:1803.08904), averaged over images and
    classes. Departs: a crop without a labelled pixel says nothing about presence and is left out;
    if none is left the loss is exactly 0.
    """
    with torch.autocast(logits.device.type, enabled=False):
        targets = _presence(labels, ignore_index, logits.shape[1])
        losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
        labelled = targets.any(dim=1)  # (N,)
        total = torch.where(labelled[:, None], losses, 0.0).sum()
        return total / (labelled.sum() * logits.shape[1]).clamp(min=1)


def _presence(labels: Tensor, ignore_index: int, num_classes: int) -> Tensor:
    """1.0 for each class in each label map: (N, K). Ignored pixels get a bin of their own."""
    bins = torch.where(labels == ignore_index, num_classes, labels.long()).flatten(1)  # (N, HW)
    present = torch.zeros(len(labels), num_classes + 1, device=labels.device)
    return present.scatter(1, bins, 1.0)[:, :num_classes]


def loss_terms(output: HeadOutput, labels: Tensor, ignore_index: int = IGNORE) -> dict[str, Tensor]:
    """Every term of `output` by name, unweighted: `main` and the head's auxiliary terms."""
    terms = {"main": pixel_cross_entropy(output.logits, labels, ignore_index)}
    for name, logits in output.pixel_aux.items():
        terms[name] = pixel_cross_entropy(logits, labels, ignore_index)
    for name, logits in output.image_aux.items():
        terms[name] = presence_loss(logits, labels, ignore_index)
    return terms


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The loss to minimise: `main` with weight 1 and every auxiliary term with its weight.

    Raises ValueError unless `weights` names exactly the auxiliary terms, so that none is dropped or
    forgotten; leaving one out on purpose is a weight of 0.
    """
    auxiliary = {name: term for name, term in terms.items() if name != "main"}
    if "main" not in terms or auxiliary.keys() != weights.keys():
        raise ValueError(
            f"loss terms are {sorted(terms)}, but there are weights for {sorted(weights)}; "
            "'main' has weight 1 and every other term needs one"
        )
    return terms["main"] + sum(weights[name] * term for name, term in auxiliary.items())
