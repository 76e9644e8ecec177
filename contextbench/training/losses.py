"""Named loss terms of a head's output, the same loop for every head.

Axes: N images, K classes, (H, W) label pixels, (h, w) feature pixels. Labels are (N, H, W), uint8
or int64, with train ids and one value to ignore. All losses are computed in float32, under autocast
too: bfloat16 has fewer than three significant digits, too few for a loss curve.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from contextbench.config.protocols import Protocol
from contextbench.config.training import OhemConfig
from contextbench.data.base import IGNORE
from contextbench.models.segmenter import resize_logits
from heads.interface import HeadOutput

Mean = Callable[[Tensor, Tensor], Tensor]  # of a total over a count that may be 0


def own_mean(total: Tensor, count: Tensor) -> Tensor:
    """total / count, 0 where nothing is counted: the mean over a batch that is all here."""
    return total / torch.where(count > 0, count, 1)


def pixel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = IGNORE,
    mean: Mean = own_mean,
    *,
    align_corners: bool = False,
) -> Tensor:
    """Cross-entropy of logits (N, K, h, w) resized to the labels, averaged over labelled pixels.

    A batch without a labelled pixel gives exactly 0 with zero gradients: it teaches nothing, and a
    NaN would end the run for an unlucky crop.
    """
    with torch.autocast(logits.device.type, enabled=False):
        size = (labels.shape[-2], labels.shape[-1])
        resized = resize_logits(logits.float(), size, align_corners=align_corners)
        losses = _cross_entropies(resized, labels.long(), ignore_index)
        return mean(losses.sum(), (labels != ignore_index).sum())


def _cross_entropies(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Of each pixel, 0 where ignored: logits (N, K, H, W) and labels (N, H, W) -> (N, H, W).

    In channels-last order the classes of a pixel lie side by side: losses over rows (N H W, K) take
    0.55 (19 classes at 512 x 512) to 0.76 times (13 at 192 x 192) as long, resizing, forward and
    backward, as over a strided dimension (`tests/test_speed.py -m timing -k channels_last`).
    """
    of_pixels = partial(
        F.cross_entropy,
        weight=weight,
        ignore_index=ignore_index,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    rows = logits.permute(0, 2, 3, 1)
    if rows.is_contiguous():
        return of_pixels(rows.flatten(0, 2), labels.flatten()).view_as(labels)
    return of_pixels(logits, labels)


def presence_loss(
    logits: Tensor, labels: Tensor, ignore_index: int = IGNORE, mean: Mean = own_mean
) -> Tensor:
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
        return mean(total, labelled.sum() * logits.shape[1])


def _presence(labels: Tensor, ignore_index: int, num_classes: int) -> Tensor:
    """1.0 for each class in each label map: (N, K). Ignored pixels get a bin of their own."""
    bins = torch.where(labels == ignore_index, num_classes, labels.long()).flatten(1)  # (N, HW)
    present = torch.zeros(len(labels), num_classes + 1, device=labels.device)
    return present.scatter(1, bins, 1.0)[:, :num_classes]


@dataclass(frozen=True)
class Criterion:
    """The losses of a protocol, the same for every head: plain cross-entropy unless options are on.

    `class_weights` (K,) scale the loss of each pixel by its class, and the mean divides by the sum
    of these weights. With `ohem` the mean runs over the hard pixels only, as Shrivastava et al.,
    CVPR 2016, do for regions; threshold and number as in the released code of OCNet. Both, and
    `label_smoothing`, act on every pixel term. `dice` and `lovasz` are weights of further terms on
    the main logits.

    `align_corners` is how logits are resized to the labels. `mean` divides the totals of pixels and
    images. One that counts over several processes makes these means those of their whole batch;
    dice and Lovasz are no means over pixels and stay those of the images here.
    """

    class_weights: Tensor | None = None
    ohem: OhemConfig | None = None
    label_smoothing: float = 0.0
    dice: float = 0.0
    lovasz: float = 0.0
    mean: Mean = own_mean
    align_corners: bool = False

    @classmethod
    def of(cls, protocol: Protocol, class_weights: Tensor | None) -> "Criterion":
        """As it says, with the weights (K,) that its `class_weights` came out as."""
        config = protocol.train.loss
        return cls(
            class_weights,
            config.ohem,
            config.label_smoothing,
            config.dice,
            config.lovasz,
            align_corners=protocol.align_corners,
        )

    def divided(self, parts: int, mean: Mean) -> "Criterion":
        """As each of `parts` processes uses it, which keeps its part of the hard pixels of OHEM."""
        ohem = self.ohem
        if ohem is not None:
            ohem = ohem.model_copy(update={"keep": -(-ohem.keep // parts)})
        return replace(self, ohem=ohem, mean=mean)

    @property
    def extra_weights(self) -> dict[str, float]:
        """Weights of the terms that the protocol adds to those of the head."""
        weights = {"dice": self.dice, "lovasz": self.lovasz}
        return {name: weight for name, weight in weights.items() if weight > 0}

    def pixel_loss(self, logits: Tensor, labels: Tensor, ignore_index: int = IGNORE) -> Tensor:
        """Of logits (N, K, h, w) resized to the labels (N, H, W)."""
        if self.class_weights is None and self.ohem is None and not self.label_smoothing:
            return pixel_cross_entropy(
                logits, labels, ignore_index, self.mean, align_corners=self.align_corners
            )
        with torch.autocast(logits.device.type, enabled=False):
            resized = self._resized(logits, labels)
            target = labels.long()
            weights = None if self.class_weights is None else self.class_weights.to(resized)
            losses = _cross_entropies(resized, target, ignore_index, weights, self.label_smoothing)
            counted = target != ignore_index
            if self.ohem is not None:
                plain = losses
                if weights is not None or self.label_smoothing:
                    plain = _cross_entropies(resized.detach(), target, ignore_index)
                counted = hard_pixels(plain.detach(), counted, self.ohem)
            share = counted.float() if weights is None else _of_labels(weights, target) * counted
            return self.mean((losses * counted).sum(), share.sum())

    def extra_terms(
        self, logits: Tensor, labels: Tensor, ignore_index: int = IGNORE
    ) -> dict[str, Tensor]:
        """The terms of `extra_weights`, of the main logits (N, K, h, w)."""
        if not self.extra_weights:
            return {}
        with torch.autocast(logits.device.type, enabled=False):
            resized = self._resized(logits, labels)
            probabilities, truth = _labelled_pixels(resized.softmax(dim=1), labels, ignore_index)
            functions = {"dice": dice_loss, "lovasz": lovasz_softmax}
            return {name: functions[name](probabilities, truth) for name in self.extra_weights}

    def _resized(self, logits: Tensor, labels: Tensor) -> Tensor:
        size = (labels.shape[-2], labels.shape[-1])
        return resize_logits(logits.float(), size, align_corners=self.align_corners)


def hard_pixels(losses: Tensor, labelled: Tensor, ohem: OhemConfig) -> Tensor:
    """Which of the labelled pixels count, by plain cross-entropies; all three are (N, H, W).

    Those whose true class has a probability, exp(-loss), below the threshold and, if these are
    fewer than `keep`, the `keep` least probable of the batch.
    """
    probability = (-losses).exp()
    candidates = probability[labelled]
    if candidates.numel() <= ohem.keep:
        return labelled
    kth = candidates.kthvalue(ohem.keep).values
    return labelled & (probability <= kth.clamp(min=ohem.threshold))


def dice_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """1 - 2 sum_i p_ki g_ki / sum_i (p_ki + g_ki), mean over the classes k present in the labels.

    `probabilities` (P, K) of labelled pixels, `truth` (P,). Milletari et al., 3DV 2016, with the
    sums of the plain, not of the squared values. Without labelled pixels exactly 0.
    """
    target = F.one_hot(truth, probabilities.shape[1]).to(probabilities)
    present = target.any(dim=0)
    overlap = 2 * (probabilities * target).sum(dim=0)
    total = (probabilities + target).sum(dim=0)
    losses = torch.where(present, 1 - overlap / total.clamp(min=1), 0.0)
    return losses.sum() / present.sum().clamp(min=1)


def lovasz_softmax(probabilities: Tensor, truth: Tensor) -> Tensor:
    """The Lovasz extension of 1 - IoU, mean over the classes present in the labels.

    `probabilities` (P, K) of labelled pixels of a batch, `truth` (P,). Berman et al., CVPR 2018,
    arXiv:1705.08790, algorithm 1 with the errors of section 3.2: for class k, m_i = |g_ki - p_ki|
    in falling order, times the growth of the Jaccard loss as pixels are added in that order.
    """
    target = F.one_hot(truth, probabilities.shape[1]).to(probabilities)
    errors, order = (target - probabilities).abs().sort(dim=0, descending=True)
    positives = target.gather(0, order)
    remaining = positives.sum(dim=0) - positives.cumsum(dim=0)  # of the intersection
    union = positives.sum(dim=0) + (1 - positives).cumsum(dim=0)
    jaccard = 1 - remaining / union.clamp(min=1)
    growth = jaccard.diff(dim=0, prepend=jaccard.new_zeros(1, jaccard.shape[1]))
    present = target.any(dim=0)
    losses = torch.where(present, (errors * growth).sum(dim=0), 0.0)
    return losses.sum() / present.sum().clamp(min=1)


def _of_labels(weights: Tensor, labels: Tensor) -> Tensor:
    """The weight of each pixel's class; that of ignored pixels means nothing."""
    return weights[labels.clamp(max=len(weights) - 1)]


def _labelled_pixels(
    probabilities: Tensor, labels: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """(N, K, H, W) and (N, H, W) -> (P, K) and (P,) of the P labelled pixels."""
    labelled = labels != ignore_index
    return probabilities.movedim(1, -1)[labelled], labels[labelled].long()


def loss_terms(
    output: HeadOutput,
    labels: Tensor,
    ignore_index: int = IGNORE,
    criterion: Criterion = Criterion(),
) -> dict[str, Tensor]:
    """Every term of `output` by name, unweighted: `main`, the head's and the protocol's."""
    terms = {"main": criterion.pixel_loss(output.logits, labels, ignore_index)}
    for name, logits in output.pixel_aux.items():
        terms[name] = criterion.pixel_loss(logits, labels, ignore_index)
    for name, logits in output.image_aux.items():
        terms[name] = presence_loss(logits, labels, ignore_index, criterion.mean)
    return {**terms, **criterion.extra_terms(output.logits, labels, ignore_index)}


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
