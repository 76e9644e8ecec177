"""Windows, sizes, mirrored classes and ensembles, against whole maps made in the plain way."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import contextbench.evaluation.prediction as prediction_module
from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.files import ConfigError, validated
from contextbench.data.base import IGNORE
from contextbench.evaluation.prediction import predict_labels, view_size, window_starts
from contextbench.models.segmenter import resize_logits
from heads.interface import HeadOutput

ROOT = Path(__file__).parents[1]


class MeanColours(nn.Module):
    """Mean colours of 4 x 4 blocks as logits of three classes, times a factor; remembers sizes."""

    needs_labels = False

    def __init__(self, factor: float = 1.0, *, needs_labels: bool = False) -> None:
        super().__init__()
        self.factor, self.needs_labels = factor, needs_labels
        self.seen: list[tuple[int, int]] = []
        self.labels: list[Tensor | None] = []

    def forward(self, images: Tensor, labels: Tensor | None = None) -> HeadOutput:
        self.seen.append((images.shape[-2], images.shape[-1]))
        self.labels.append(labels)
        # A squared term makes a window depend on what is in it and on nothing else.
        blocks = F.avg_pool2d(images, 4, ceil_mode=True)
        return HeadOutput(self.factor * blocks + 0.3 * blocks.mean((2, 3), keepdim=True), {}, {})


def _images(height: int, width: int, n: int = 1) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def predict(model: Any, images: Tensor, size: tuple[int, int], **options: Any) -> Tensor:
    config = EvaluateConfig.model_validate(options.pop("config", {}))
    models = model if isinstance(model, list) else [model]
    return predict_labels(models, images, size, config=config, **options)


def slide(window: tuple[int, int], stride: tuple[int, int], **others: object) -> dict[str, Any]:
    return {"mode": "slide", "window": window, "stride": stride, **others}


@pytest.mark.parametrize(
    ("length", "window", "stride", "expected"),
    [
        (10, 4, 3, [0, 3, 6]),
        (11, 4, 3, [0, 3, 6, 7]),
        (4, 4, 2, [0]),
        (3, 4, 2, [0]),
        (5, 4, 4, [0, 1]),
    ],
)
def test_windows_cover_a_side_and_end_with_it(
    length: int, window: int, stride: int, expected: list[int]
) -> None:
    assert window_starts(length, window, stride) == expected
    covered = {i for start in expected for i in range(start, min(start + window, length))}
    assert covered == set(range(length))


@pytest.mark.parametrize("window", [(24, 40), (100, 100)])
@pytest.mark.parametrize("views", [{}, {"flip": True, "scales": (0.5, 1.0)}])
def test_a_window_as_large_as_the_image_is_the_whole_image(
    window: tuple[int, int], views: dict[str, Any]
) -> None:
    """Exactly: the same forward passes are made."""
    images = _images(24, 40)
    whole, slid = MeanColours(), MeanColours()
    expected = predict(whole, images, (24, 40), config=views)
    actual = predict(slid, images, (24, 40), config=slide(window, (10, 10), **views))
    assert torch.equal(actual, expected)
    assert slid.seen == whole.seen


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_windows_are_averaged_where_they_overlap(average: str) -> None:
    """A loop over windows, each resized to its pixels; their mean where several cover one."""
    images, model = _images(20, 31), MeanColours()
    total, covered = torch.zeros(1, 3, 20, 31), torch.zeros(20, 31)
    for top in (0, 6, 8):
        for left in (0, 10, 15):
            logits = model(images[..., top : top + 12, left : left + 16]).logits
            full = F.interpolate(logits, (12, 16), mode="bilinear", align_corners=False)
            each = full.softmax(1) if average == "probabilities" else full
            total[..., top : top + 12, left : left + 16] += each
            covered[top : top + 12, left : left + 16] += 1
    config = slide((12, 16), (6, 10), average=average)
    actual = predict(MeanColours(), images, (20, 31), config=config)
    assert torch.equal(actual.long(), (total / covered).argmax(dim=1))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_views_of_windows_are_averaged_like_others(average: str) -> None:
    """Two scales and mirror images: each view alone, resized to the labels, then their mean."""
    images, size = _images(20, 31), (40, 62)
    windows = slide((12, 16), (6, 10), average=average)
    total, model = torch.zeros(1, 3, *size), MeanColours()
    for scale, flip in itertools.product((0.8, 1.0), (False, True)):
        view = F.interpolate(
            images, view_size((20, 31), EvaluateConfig(), scale), mode="bilinear", antialias=True
        )
        view = view.flip(-1) if flip else view
        config = EvaluateConfig.model_validate(windows)
        scores = prediction_module._scores([model], view, None, config)[0].values
        total += resize_logits(scores.flip(-1) if flip else scores, size)
    config = {**windows, "scales": (0.8, 1.0), "flip": True}
    actual = predict(MeanColours(), images, size, config=config)
    assert (actual.long() == total.argmax(dim=1)).float().mean() > 0.999  # rounding at ties


def test_a_window_longer_than_one_side_only() -> None:
    model = MeanColours()
    predict(model, _images(8, 40), (8, 40), config=slide((16, 16), (8, 8)))
    assert set(model.seen) == {(8, 16)}
    assert len(model.seen) == 4  # at 0, 8, 16 and 24


def test_windows_show_a_model_their_part_of_the_labels() -> None:
    model = MeanColours(needs_labels=True)
    labels = torch.arange(12)[:, None].expand(12, 10).to(torch.uint8)[None]
    predict(model, _images(12, 10), (12, 10), labels=labels, config=slide((8, 10), (4, 10)))
    assert [each[0, 0, 0].item() for each in model.labels if each is not None] == [0, 4]
    assert all(each is not None and each.shape == (1, 8, 10) for each in model.labels)


def test_mirrored_classes_are_exchanged_back() -> None:
    """A model that tells left from right: mirrored, it calls the left one right."""

    class Sides(nn.Module):
        needs_labels = False

        def forward(self, images: Tensor, _labels: Tensor | None = None) -> HeadOutput:
            left = torch.linspace(1, -1, images.shape[-1]).expand(1, 1, *images.shape[-2:])
            return HeadOutput(torch.cat([left, -left, 0 * left - 9], dim=1), {}, {})

    images = _images(4, 8)
    expected = torch.tensor([0] * 4 + [1] * 4, dtype=torch.uint8).expand(1, 4, 8)
    flip = {"flip": True}
    assert torch.equal(predict(Sides(), images, (4, 8)), expected)
    assert torch.equal(predict(Sides(), images, (4, 8), config=flip, mirrored=(1, 0, 2)), expected)
    # Without the exchange the two views cancel: both classes score the same everywhere.
    assert not torch.equal(predict(Sides(), images, (4, 8), config=flip), expected)


def test_a_model_that_needs_labels_sees_mirrored_classes() -> None:
    model = MeanColours(needs_labels=True)
    labels = torch.tensor([[[0, 0, 2, IGNORE], [1, 0, 2, 2]]], dtype=torch.uint8)
    config = {"flip": True}
    predict(model, _images(2, 4), (2, 4), labels=labels, config=config, mirrored=(1, 0, 2))
    straight, turned = model.labels
    assert straight is not None
    assert torch.equal(straight, labels)
    assert turned is not None
    assert turned.tolist() == [[[IGNORE, 2, 1, 1], [2, 2, 1, 0]]]


def test_an_ensemble_is_the_mean_of_probabilities() -> None:
    images, models = _images(16, 16), [MeanColours(1.0), MeanColours(-2.0)]
    full = [
        F.interpolate(m(images).logits, (16, 16), mode="bilinear", align_corners=False).softmax(1)
        for m in models
    ]
    expected = (full[0] + full[1]).argmax(dim=1)
    assert torch.equal(predict(models, images, (16, 16)).long(), expected)
    alone = predict(models[0], images, (16, 16))
    assert torch.equal(predict([models[0], models[0]], images, (16, 16)), alone)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (100, 200)),
        ({"short_side": 50}, (50, 100)),
        ({"short_side": 150, "long_side": 200}, (100, 200)),
        ({"short_side": 150, "long_side": 280}, (140, 280)),
        ({"size": (473, 473)}, (473, 473)),
    ],
)
def test_sizes_that_a_model_sees(config: dict[str, Any], expected: tuple[int, int]) -> None:
    whole = EvaluateConfig.model_validate(config)
    assert view_size((100, 200), whole, 1.0) == expected
    assert view_size((100, 200), whole, 0.5) == (round(expected[0] / 2), round(expected[1] / 2))
    model = MeanColours()
    assert predict(model, _images(100, 200), (100, 200), config=config).shape == (1, 100, 200)
    assert model.seen == [expected]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "slide"}, "needs window and stride"),
        ({"window": (8, 8), "stride": (4, 4)}, "no other mode has them"),
        ({"mode": "slide", "window": (8, 8), "stride": (4, 9)}, "must not exceed window"),
        ({"size": (8, 8), "short_side": 4}, "exclude each other"),
        ({"long_side": 4}, "short_side asks for"),
        ({"average": "votes"}, "average"),
    ],
)
def test_settings_that_do_not_fit_together(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(EvaluateConfig, wrong, "file")


def test_ignored_pixels_survive_the_resize_for_windows() -> None:
    model = MeanColours(needs_labels=True)
    labels = torch.full((1, 24, 20), IGNORE, dtype=torch.uint8)
    predict(model, _images(12, 10), (24, 20), labels=labels, config=slide((8, 10), (4, 10)))
    assert all(each is not None and (each == IGNORE).all() for each in model.labels)


LARGE_IMAGE = """
import resource, torch
from contextbench.models.build import build_model
from contextbench.config.evaluation import EvaluateConfig
from contextbench.models.precision import Precision
from contextbench.evaluation.prediction import Predictor
from tests import small
model = build_model(small.protocol(), small.head(), 19, seed=0).eval()
config = EvaluateConfig(mode="slide", window=(512, 1024), stride=(341, 683), flip=True)
image = torch.randint(0, 256, (3, 1024, 2048), dtype=torch.uint8)
Predictor([model], torch.device("cpu"), Precision(), config)(image, (1024, 2048))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_a_large_image_in_windows_stays_below_two_gigabytes() -> None:
    """Of the whole process: 19 classes at 1024 x 2048 are 159 MB a map, and two are held."""
    command = [sys.executable, "-c", LARGE_IMAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 2e9
