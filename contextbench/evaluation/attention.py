"""What a pixel of an image attends to in a trained model, and what its logit depends on.

Heads say themselves what they attend to (`ContextHead.attend`). The influence is one function of
features and logits for all heads, with attention or without, so that they can stand side by side.
All is computed in float32, on the image as it is: one scale, no flip, whatever the evaluation was.

Axes: N images, K classes, C channels, (H, W) image pixels, (h, w) feature pixels, height first.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from contextbench.data.base import DataError
from contextbench.data.transforms import normalise
from contextbench.models.segmenter import Segmenter, resize_logits
from contextbench.records.attention import INFLUENCE, AttentionMap, cell_of
from contextbench.system.errors import UserError
from heads.interface import Attended, Features, evaluating

TOP_PARTS = 3  # of the parts that have places, those shown as maps

LEAST_WEIGHT = 0.05  # of these parts, but for the first

MEANING = (
    "Sum over channels of |gradient x feature|, in logits: of the logit of the named class at this "
    "pixel, by the backbone's last stage, earlier stages held fixed"
)


class AttentionError(UserError, ValueError):
    """A pixel or a class that the image or the model does not have."""


def attention_maps(
    model: Segmenter,
    image: Tensor,
    pixel: tuple[int, int],
    *,
    head_name: str,
    image_name: str,
    classes: Sequence[str],
    target: int | None = None,
) -> list[AttentionMap]:
    """The influence on `pixel` (y, x) of `image` (3, H, W) uint8, then what the head attends to.

    The influence is on the logit of class `target`, else of the class predicted for the pixel, and
    has that class as its label. Of a head's parts that have places on the map, those of largest
    weight come as maps too, `TOP_PARTS` at most: `regions-1` is the first of `regions`. The model
    keeps its modes, parameters and gradients.

    Raises `AttentionError` for a pixel outside the image or a class that does not exist, and
    `DataError` for a model whose regions are the ground truth.
    """
    size = _checked_size(model, image, pixel, image_name)
    if target is not None and not 0 <= target < len(classes):
        raise AttentionError(f"class {target} does not exist: there are {len(classes)}")
    # Tensors made in inference mode cannot be differentiated later.
    with torch.inference_mode(False), evaluating(model):
        features = _features(model, image)
        cell = cell_of(pixel, size, _size(features.layer4))
        influence, chosen = _influence(model, features, pixel, size, target)
        attended = model.head.attend(features, cell)
    described = partial(AttentionMap, head=head_name, image=image_name, pixel=pixel, cell=cell)
    maps = [
        described(
            kind=INFLUENCE,
            values=influence.cpu().numpy(),
            meaning=MEANING,
            labels=(classes[chosen],),
        )
    ]
    for kind, part in attended.items():
        maps += _maps_of(kind, part, classes, described)
    return maps


def predicted_class(
    model: Segmenter, image: Tensor, pixel: tuple[int, int], *, image_name: str
) -> int:
    """The class of `pixel` (y, x) as `attention_maps` sees it. Raises as that does."""
    size = _checked_size(model, image, pixel, image_name)
    with evaluating(model), torch.no_grad():
        logits = model.head(_features(model, image)).logits
        return _largest(model, logits, pixel, size)


def _checked_size(
    model: Segmenter, image: Tensor, pixel: tuple[int, int], image_name: str
) -> tuple[int, int]:
    if model.needs_labels:
        raise DataError(
            "this model's regions are the ground truth, an upper bound for evaluation: its pixels "
            "attend to the labels of the image, which attention does not have"
        )
    height, width = _size(image)
    if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise AttentionError(
            f"pixel {pixel[0]},{pixel[1]} (row, column) is outside of {image_name}: allowed are "
            f"0,0 to {height - 1},{width - 1}"
        )
    return height, width


def _features(model: Segmenter, image: Tensor) -> Features:
    device = next(model.parameters()).device
    with torch.no_grad():
        features: Features = model.backbone(normalise(image[None].to(device)))
    return features


def _influence(
    model: Segmenter,
    features: Features,
    pixel: tuple[int, int],
    size: tuple[int, int],
    target: int | None,
) -> tuple[Tensor, int]:
    """sum_c |d logit / d x_c * x_c| (h, w) for x = layer4, and the class of the logit.

    Gradient times input (Shrikumar et al., arXiv:1605.01713) does not change where a channel is
    scaled and the next layer undoes it, so models trained apart can be compared. Departs: absolute
    values, since contributions of opposite sign would hide each other in the sum over channels.
    """
    layer4 = features.layer4.detach().requires_grad_()
    with torch.enable_grad():
        logits = model.head(features._replace(layer4=layer4)).logits
    chosen = _largest(model, logits, pixel, size) if target is None else target
    place = cell_of(pixel, size, _size(logits))  # of a head that decodes, finer than the features
    (gradient,) = torch.autograd.grad(logits[0, chosen, *place], layer4)
    return (gradient * features.layer4).abs().sum(dim=1)[0], chosen


def _largest(
    model: Segmenter, logits: Tensor, pixel: tuple[int, int], size: tuple[int, int]
) -> int:
    """The class with the largest of the logits (1, K, h, w) at a pixel of an image of `size`."""
    resized = resize_logits(logits.detach(), size, align_corners=model.align_corners)
    return int(resized[0, :, *pixel].argmax())


def _maps_of(
    kind: str, attended: Attended, classes: Sequence[str], described: "partial[AttentionMap]"
) -> Iterator[AttentionMap]:
    """The values of one image, and the places of the parts with the largest of them."""
    values = attended.values[0].float()
    if attended.part == "pixel":
        yield described(kind=kind, values=values.cpu().numpy(), meaning=attended.meaning)
        return
    count = len(values)
    names = list(classes) if attended.part == "class" else None
    labels = tuple(names or (f"{attended.part} {index}" for index in range(count)))
    yield described(kind=kind, values=values.cpu().numpy(), meaning=attended.meaning, labels=labels)
    if attended.places is None:
        return
    for rank, part in enumerate(values.topk(min(TOP_PARTS, count)).indices.tolist(), 1):
        if rank > 1 and values[part] < LEAST_WEIGHT:
            return
        yield described(
            kind=f"{kind}-{rank}",
            values=attended.places[0, part].float().cpu().numpy(),
            meaning=f"Where {labels[part]} is, number {rank} of `{kind}` by weight",
            labels=(labels[part],),
        )


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]
