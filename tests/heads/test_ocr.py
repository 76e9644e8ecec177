"""Object-contextual representations against loops over pixels and regions."""

import math

import pytest
import torch

from heads.ocr import ObjectContextualRepresentation, OCRHead
from tests.heads import loops
from tests.heads.small import CLASSES, IMPLEMENTATIONS, small_features, small_head


def column_map(vectors: list[loops.Vector]) -> loops.Map:
    return loops.map_of(vectors, len(vectors), 1)


def region_vectors(pixels: list[loops.Vector], coarse: loops.Map) -> list[loops.Vector]:
    """Means of the pixels, weighted per class by a softmax over the image."""
    regions = []
    for plane in coarse:
        mask = loops.softmax([value for row in plane for value in row])
        regions.append([loops.dot(mask, list(c)) for c in zip(*pixels, strict=True)])
    return regions


def looped(
    image: loops.Map, coarse: loops.Map, context: ObjectContextualRepresentation
) -> loops.Map:
    x = loops.conv_bn_relu(image, context.reduce)
    regions = column_map(region_vectors(loops.pixels_of(x), coarse))
    keys = loops.pixels_of(loops.conv_bn_relu(regions, context.psi))
    values = loops.pixels_of(loops.conv_bn_relu(regions, context.delta))
    gathered = []
    for query in loops.pixels_of(loops.conv_bn_relu(x, context.phi)):
        relation = loops.softmax([loops.dot(query, key) / math.sqrt(len(key)) for key in keys])
        gathered.append([loops.dot(relation, list(c)) for c in zip(*values, strict=True)])
    augmented = loops.conv_bn_relu(loops.map_of(gathered, *loops.size_of(x)), context.rho)
    return loops.conv_bn_relu(augmented + x, context.fuse)  # lists of channels: concatenation


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_context_equals_loops(implementation: str) -> None:
    head = small_head("ocr", implementation).double().eval()
    assert isinstance(head, OCRHead)
    x, coarse = head.context_inputs(small_features(2, 3, dtype=torch.float64))
    pairs = zip(x.tolist(), coarse.tolist(), strict=True)
    expected = [looped(image, regions, head.context) for image, regions in pairs]
    torch.testing.assert_close(head.context(x, coarse), loops.stacked(expected))


def test_regions_are_those_of_the_supervised_branch() -> None:
    """The emitted coarse logits are the ones that the context module is given."""
    head, features = small_head("ocr").eval(), small_features()
    output = head(features)
    coarse = output.pixel_aux["coarse"]
    torch.testing.assert_close(coarse, head.get_submodule("coarse")(features.layer3))
    torch.testing.assert_close(output.logits, head.classifier(head.context(features[3], coarse)))


def test_hard_regions_are_described_by_their_mean() -> None:
    """Where a class is certain on two pixels only, its vector is their mean."""
    x = small_features(2, 3, dtype=torch.float64).layer4
    coarse = torch.full((2, CLASSES, 2, 3), -100.0, dtype=torch.float64)
    coarse[:, 1, 0, 2] = coarse[:, 1, 1, 0] = 100
    regions = ObjectContextualRepresentation._regions(x, coarse)  # (N, C, K)
    torch.testing.assert_close(regions[:, :, 1], (x[:, :, 0, 2] + x[:, :, 1, 0]) / 2)
    torch.testing.assert_close(regions[:, :, 0], x.mean(dim=(2, 3)))  # nowhere certain: uniform


def test_the_main_loss_reaches_the_region_branch() -> None:
    head = small_head("ocr")
    head(small_features()).logits.square().mean().backward()
    assert all(p.grad is not None for p in head.get_submodule("coarse").parameters())
