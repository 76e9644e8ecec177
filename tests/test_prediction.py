"""Windows, sizes, mirrored classes and ensembles, against whole maps made in the plain way."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.files import ConfigError, validated
from contextbench.data.base import IGNORE
from contextbench.evaluation.batches import WindowBatches
from contextbench.evaluation.prediction import (
    STRIP_BYTES_CPU,
    confident,
    predict_labels,
    predicted,
    view_size,
    window_starts,
)
from contextbench.models.segmenter import resize_logits
from heads.interface import HeadOutput
from tests.cases import quick

ROOT = Path(__file__).parents[1]


class MeanColours(nn.Module):
    """Mean colours of 4 x 4 blocks as logits of three classes, times a factor; remembers sizes."""

    needs_labels = False
    align_corners = False

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
    images = _images(20, 31)
    assert (window_starts(20, 12, 6), window_starts(31, 16, 10)) == ([0, 6, 8], [0, 10, 15])
    config = slide((12, 16), (6, 10), average=average)
    actual = predict(MeanColours(), images, (20, 31), config=config)
    expected = window_means(images, (12, 16), (6, 10), average)
    assert torch.equal(actual.long(), expected.argmax(dim=1))


def window_means(
    images: Tensor, window: tuple[int, int], stride: tuple[int, int], average: str
) -> Tensor:
    """A loop over windows, each resized to its pixels; their mean where several cover one."""
    height, width = images.shape[-2:]
    total, covered, model = torch.zeros_like(images), torch.zeros(height, width), MeanColours()
    for top in window_starts(height, window[0], stride[0]):
        for left in window_starts(width, window[1], stride[1]):
            box = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            full = F.interpolate(model(images[box]).logits, window, mode="bilinear")
            total[box] += full.softmax(1) if average == "probabilities" else full
            covered[box] += 1
    return total / covered


OVERLAPPING = slide((12, 16), (6, 10), flip=True, scales=(1.0, 1.5))


def sure(models: list[Any], images: Tensor, batch: object, **options: Any) -> list[Any]:
    """Labels and confidences in windows, so many at once."""
    config = EvaluateConfig.model_validate({**OVERLAPPING, "window_batch": batch})
    size = (images.shape[-2], images.shape[-1])
    return predicted(confident, models, images, size, config=config, **options)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 3, 4096])
def test_windows_in_batches_are_windows_one_by_one(batch: int, n: int) -> None:
    """To rounding: the same arithmetic on each window, whatever lies beside it.

    There are 3 x 3 windows at scale 1 and 4 x 4 at 1.5, so that last batches are smaller, too.
    """
    images, model = _images(20, 31, n), nn.Conv2d(3, 5, 3, padding=1)

    class Convolved(MeanColours):
        def forward(self, images: Tensor, labels: Tensor | None = None) -> HeadOutput:
            blocks = F.avg_pool2d(model(super().forward(images, labels).logits), 2)
            return HeadOutput(blocks, {}, {})

    seen = Convolved()
    [found] = sure([seen], images, batch)
    [alone] = sure([Convolved()], images, "auto")
    assert len(seen.seen) == 2 * (-(-9 // batch) + -(-16 // batch))
    torch.testing.assert_close(found.confidence, alone.confidence)
    differing = found.labels != alone.labels
    assert not differing.any()


def test_batches_of_windows_see_their_labels_and_serve_each_model() -> None:
    labels = torch.arange(620).reshape(1, 20, 31).to(torch.uint8)
    options: dict[str, Any] = {"labels": labels, "mirrored": (0, 2, 1)}
    one, four = MeanColours(needs_labels=True), MeanColours(needs_labels=True)
    sure([one], _images(20, 31), 1, **options)
    sure([four], _images(20, 31), 4, **options)
    apart, together = ([part for given in m.labels for part in given] for m in (one, four))
    assert all(itertools.starmap(torch.equal, zip(apart, together, strict=True)))
    pair = [Shared(1.0), Shared(-0.5)]
    several = sure(pair, _images(20, 31), 4, each=True)
    for model, found in zip(pair, several, strict=True):
        [alone] = sure([model], _images(20, 31), 1)
        torch.testing.assert_close(found.confidence, alone.confidence)
        assert torch.equal(found.labels, alone.labels)


class Shared(MeanColours):
    """One of several models on one backbone."""

    backbone = nn.Identity()


class Small(MeanColours):
    """Whose memory takes three images at once."""

    def forward(self, images: Tensor, labels: Tensor | None = None) -> HeadOutput:
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(images, labels)


def test_a_batch_of_windows_that_does_not_fit_is_halved_and_this_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """9 windows, of which 8 are tried, 4, and 2: five passes; the next image begins with 2."""
    batches, model = WindowBatches(), Small()
    config = EvaluateConfig.model_validate(slide((12, 16), (6, 10), window_batch=8))
    for _ in range(2):
        found = predict_labels([model], _images(20, 31), (20, 31), config=config, batches=batches)
        expected = predict(MeanColours(), _images(20, 31), (20, 31), config=OVERLAPPING_ONCE)
        assert torch.equal(found, expected)
    assert len(model.seen) == 2 * 5
    [said] = caplog.messages
    assert said == (
        "memory does not suffice for 8 windows of 12x16 at once: halved until they fit "
        "(evaluate.window_batch)"
    )


OVERLAPPING_ONCE = slide((12, 16), (6, 10))


def test_a_window_that_does_not_fit_alone_is_out_of_memory() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        predict(Small(), _images(20, 31, 4), (20, 31), config=slide((12, 16), (6, 10)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_batch": 2}, "window_batch is of mode slide"),
        (slide((8, 8), (8, 8), window_batch=0), "window_batch"),
        (slide((8, 8), (8, 8), window_batch="all"), "window_batch"),
    ],
)
def test_a_batch_of_windows_is_a_number_where_there_are_windows(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(EvaluateConfig, settings, "protocol.yaml")


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("config", [{}, {"flip": True}, slide((12, 16), (6, 10))])
def test_confidence_is_the_probability_of_the_label(config: dict[str, Any], average: str) -> None:
    """Of one view, of its mean with the mirrored one, and of the mean of windows."""
    images, size = _images(20, 31), (20, 31)
    if "window" in config:
        means = window_means(images, (12, 16), (6, 10), average)
    else:
        views = [images, images.flip(-1)] if config else [images]
        logits = [resize_logits(MeanColours()(view).logits, size) for view in views]
        logits[1:] = [each.flip(-1) for each in logits[1:]]
        softened = average == "probabilities" and len(views) > 1
        means = sum(each.softmax(1) if softened else each for each in logits) / len(views)
    already = average == "probabilities" and bool(config)
    expected = (means if already else means.softmax(1)).amax(dim=1)
    settings = EvaluateConfig.model_validate({**config, "average": average})
    [found] = predicted(confident, [MeanColours()], images, size, config=settings)  # type: ignore[list-item]
    torch.testing.assert_close(found.confidence, expected)
    labels = predict(MeanColours(), images, size, config={**config, "average": average})
    assert torch.equal(found.labels, labels)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_views_of_windows_are_averaged_like_others(average: str) -> None:
    """Two scales and mirror images: each view alone, resized to the labels, then their mean."""
    images, size = _images(20, 31), (40, 62)
    windows = slide((12, 16), (6, 10), average=average)
    total = torch.zeros(1, 3, *size)
    for scale, flip in itertools.product((0.8, 1.0), (False, True)):
        seen = view_size((20, 31), EvaluateConfig(), scale)
        view = F.interpolate(images, seen, mode="bilinear", antialias=True)
        means = window_means(view.flip(-1) if flip else view, (12, 16), (6, 10), average)
        total += resize_logits(means.flip(-1) if flip else means, size)
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
        align_corners = False

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


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operator makes, but for what is no map of classes."""

    bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.dim() >= 4:
                self.bytes = max(self.bytes, tensor.nbytes)
        return result


@pytest.mark.parametrize("views", quick([{}, {"flip": True, "scales": (0.5, 1.0)}], [{}]))
def test_no_map_of_all_classes_is_as_large_as_the_image(views: dict[str, Any]) -> None:
    """40 classes at 512 x 640 are 52 MB a map; a strip has 4 MiB, and its two taps twice that."""
    classes, size = 40, (512, 640)
    images = torch.rand(1, 3, *size)
    with LargestTensor() as seen:
        predict(Coarse(classes), images, size, config=slide((256, 256), (192, 192), **views))
    assert images.nbytes <= seen.bytes <= 2 * STRIP_BYTES_CPU < 4 * classes * 512 * 640 / 5


class Coarse(nn.Module):
    """Logits at an eighth of the size, of many classes."""

    needs_labels = False
    align_corners = False

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(3, classes, 8, stride=8)

    def forward(self, images: Tensor, _labels: Tensor | None = None) -> HeadOutput:
        return HeadOutput(self.classifier(images), {}, {})


LARGE_IMAGE = """
import sys, torch
from contextbench.config.evaluation import EvaluateConfig
from contextbench.evaluation.prediction import Predictor
from contextbench.measure.memory import measure_peak_cpu
from contextbench.models.build import build_model
from contextbench.models.precision import Precision
from tests import small

def predicted():
    model = build_model(small.protocol(), small.head(), 19, seed=0).eval()
    config = EvaluateConfig(mode="slide", window=(512, 1024), stride=(341, 683), flip=True)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    Predictor([model], torch.device("cpu"), Precision(), config)(image, size)

if __name__ == "__main__":
    print(measure_peak_cpu(predicted))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("size", "bound"), [((1024, 2048), 0.4e9), ((4000, 4000), 1.0e9)])
def test_large_images_in_windows_stay_far_below_a_map_of_their_size(
    size: tuple[int, int], bound: float, tmp_path: Path
) -> None:
    """What a fresh process grows by: 19 classes at 4000 x 4000 alone are 1.2 GB a map.

    Not by `ru_maxrss`, which starts at the peak of the process that started this one.
    """
    script = tmp_path / "large.py"
    script.write_text(f"size = {size}\n{LARGE_IMAGE}")
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) < bound
