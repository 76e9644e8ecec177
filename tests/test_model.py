"""The segmenter, its parameter groups and the one place where logits are resized."""

import pytest
import torch
from torch import Tensor, nn

from contextbench.models.backbone import build_backbone
from contextbench.models.segmenter import Segmenter, parameter_groups, resize_logits
from heads.interface import Channels, ContextHead, Features, HeadOutput


class TinyHead(ContextHead):
    loss_weights = {"aux": 0.4}  # noqa: RUF012  (the contract's ClassVar)

    def __init__(self, channels: Channels, num_classes: int) -> None:
        super().__init__()
        self.context = nn.BatchNorm2d(channels.layer4)
        self.classifier = nn.Conv2d(channels.layer4, num_classes, 1)
        self.auxiliary = nn.Conv2d(channels.layer3, num_classes, 1)

    def forward(self, features: Features) -> HeadOutput:
        logits = self.classifier(self.context(features.layer4))
        aux = {"aux": self.auxiliary(features.layer3)} if self.training else {}
        return HeadOutput(logits, pixel_aux=aux, image_aux={})


@pytest.fixture
def model() -> Segmenter:
    torch.manual_seed(0)
    backbone = build_backbone("resnet10", width=8)
    return Segmenter(backbone, TinyHead(backbone.channels, 5))


def test_forward_gives_the_heads_output_at_feature_size(model: Segmenter) -> None:
    images = torch.rand(2, 3, 33, 48)
    output = model(images)
    assert output.logits.shape == output.pixel_aux["aux"].shape == (2, 5, 5, 6)
    model.eval()
    expected = model.head(model.backbone(images))
    assert model(images).pixel_aux == {}
    torch.testing.assert_close(model(images).logits, expected.logits)


def test_groups_hold_every_parameter_once_with_its_rate(model: Segmenter) -> None:
    groups = parameter_groups(model, lr=0.01, head_lr_factor=10, weight_decay=5e-4)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert [group["name"] for group in groups] == ["backbone", "head"]
    assert [group["lr"] for group in groups] == [0.01, 0.1]
    assert [group["weight_decay"] for group in groups] == [5e-4, 5e-4]
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in model.head.parameters()}


def test_groups_drive_an_optimiser(model: Segmenter) -> None:
    """Plain SGD moves a parameter by lr * gradient: ten times as far in the head."""
    groups = parameter_groups(model, lr=0.01, head_lr_factor=10, weight_decay=0.0)
    optimiser = torch.optim.SGD(groups)
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    in_head = {id(p) for p in model.head.parameters()}
    for parameter, old in zip(model.parameters(), before, strict=True):
        step = 0.1 if id(parameter) in in_head else 0.01
        torch.testing.assert_close(parameter.detach(), old - step)


def _bilinear(row: Tensor, size: int) -> Tensor:
    """One row by the definition: output centres fall on the input, edges repeat."""
    n = len(row)
    values = []
    for i in range(size):
        position = min(max((i + 0.5) * n / size - 0.5, 0.0), n - 1.0)
        low = int(position)
        high = min(low + 1, n - 1)
        values.append(row[low] + (position - low) * (row[high] - row[low]))
    return torch.stack(values)


@pytest.mark.parametrize(("inner", "outer"), [(4, 32), (5, 33), (7, 7), (9, 4)])
def test_resize_is_bilinear_without_aligned_corners(inner: int, outer: int) -> None:
    row = torch.rand(inner, generator=torch.Generator().manual_seed(0))
    expected = _bilinear(row, outer)
    along_width = resize_logits(row.view(1, 1, 1, -1), (1, outer))
    along_height = resize_logits(row.view(1, 1, -1, 1), (outer, 1))
    torch.testing.assert_close(along_width.flatten(), expected)
    torch.testing.assert_close(along_height.flatten(), expected)
