"""Strip-wise prediction against the whole map, counts against loops, and a split end to end."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import contextbench.evaluation.prediction as prediction_module
import contextbench.evaluation.strips as strips_module
from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.frozen import Size
from contextbench.data.base import IGNORE, DataError, LabelSet, Sample
from contextbench.data.transforms import normalise
from contextbench.evaluation.corruption import corrupted
from contextbench.evaluation.counting import count_areas, evaluate
from contextbench.evaluation.prediction import Predictor, predict_labels
from contextbench.evaluation.strips import Whole, row_weights
from contextbench.models.backbone import build_backbone
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter, resize_logits
from contextbench.statistics.scores import scores
from contextbench.system.errors import UserError
from contextbench.system.interrupt import Interrupted
from heads.interface import Channels, ContextHead, Features, HeadOutput

CPU = torch.device("cpu")
FLOAT32 = Precision(dtype="float32", memory_format="contiguous")
CLASSES = 5


class TinyHead(ContextHead):
    def __init__(self, channels: Channels, num_classes: int) -> None:
        super().__init__()
        self.context = nn.Identity()
        self.classifier = nn.Conv2d(channels.layer4, num_classes, 1)

    def forward(self, features: Features) -> HeadOutput:
        return HeadOutput(self.classifier(self.context(features.layer4)), {}, {})


class FixedLogits(nn.Module):
    """A model with given logits, or the mean colours of 4 x 4 blocks as logits of three classes."""

    needs_labels = False
    align_corners = False

    def __init__(self, logits: Tensor | None = None) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor, _labels: Tensor | None = None) -> HeadOutput:
        logits = F.avg_pool2d(images, 4, ceil_mode=True) if self.logits is None else self.logits
        return HeadOutput(logits, {}, {})


class Images:
    """Noise images of various odd sizes, with labels and ignored pixels."""

    labels = LabelSet(
        classes=tuple("abcde"), palette=tuple((k, k, k) for k in range(CLASSES)), groups={}
    )
    sizes = ((33, 47), (64, 40), (33, 47))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        size = self.sizes[index]
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        return Sample(f"image-{index}", image, _labels(size, generator))

    def fingerprint(self) -> str:
        return "images"


def _labels(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    labels = torch.randint(0, CLASSES, size, generator=generator)
    ignored = torch.rand(size, generator=generator) < 0.2
    return torch.where(ignored, IGNORE, labels).to(torch.uint8)


def predictor(model: Segmenter, precision: Precision, **config: object) -> Predictor:
    return Predictor([model], CPU, precision, EvaluateConfig.model_validate(config))


def _model() -> Segmenter:
    torch.manual_seed(0)
    backbone = build_backbone("resnet10", width=8)
    return Segmenter(backbone, TinyHead(backbone.channels, CLASSES))


def _random_logits(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(n, CLASSES, height, width, generator=torch.Generator().manual_seed(seed))


def _loop_counts(prediction: Tensor, labels: Tensor) -> np.ndarray[Any, Any]:
    """Right, predicted, labelled pixels per class, pixel by pixel."""
    counts = np.zeros((3, CLASSES), dtype=np.int64)
    for guess, label in zip(prediction.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if label != IGNORE:
            counts[0, label] += guess == label
            counts[1, guess] += 1
            counts[2, label] += 1
    return counts


@settings(deadline=None, max_examples=60)
@given(
    inner=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    outer=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    budget=st.integers(1, 9000),
    seed=st.integers(0, 1000),
)
def test_strips_equal_the_whole_map(
    inner: tuple[int, int], outer: tuple[int, int], budget: int, seed: int
) -> None:
    """Any size, any strip height: the argmax of `resize_logits` of the whole map.

    Rounding differs by at most a few float32 steps, so only where two classes tie to 1e-5 may the
    choice differ.
    """
    logits = _random_logits(2, *inner, seed=seed)
    view = whole_view(logits, outer)
    prediction = prediction_module.largest([view], outer, EvaluateConfig(), budget)
    assert prediction.dtype == torch.uint8
    assert_largest(prediction, resize_logits(logits, outer))


def whole_view(logits: Tensor, size: Size) -> Whole:
    return Whole(logits, row_weights(logits.shape[2], size[0], logits.device), size[1])


@given(height=st.integers(1, 40), target=st.integers(1, 90))
def test_weights_of_rows_are_what_resizing_makes_of_the_identity(height: int, target: int) -> None:
    """Each source row alone: what it adds to each resulting row. All other weights are zero."""
    identity = resize_logits(torch.eye(height)[None, :, :, None], (target, 1))[0, :, :, 0]
    weights, sources = row_weights(height, target, CPU)
    found = torch.zeros(height, target).scatter_add_(0, sources, weights)
    assert torch.equal(found, identity)


def assert_largest(prediction: Tensor, whole: Tensor) -> None:
    """The classes of the largest logits (N, K, H, W), except where two tie up to rounding."""
    assert prediction.shape == (whole.shape[0], *whole.shape[2:])
    best = whole.topk(2, dim=1)
    clear = best.values[:, 0] - best.values[:, 1] > 1e-5
    assert torch.equal(prediction[clear].long(), best.indices[:, 0][clear])


@pytest.mark.parametrize(
    ("device", "size", "strips"),
    [
        ("cpu", (60, 80), 1),
        ("cpu", (1024, 512), 3),  # of 4 MiB, of 10
        ("cuda", (1024, 512), 1),
        # Of 128 MiB, of 134: seconds.
        pytest.param("cuda", (2200, 3200), 2, marks=pytest.mark.slow),
    ],
)
def test_strips_of_the_size_of_each_device(device: str, size: Size, strips: int) -> None:
    """Both budgets as they are, below and above them; a GPU's strips are made on the CPU here."""
    logits, budget = _random_logits(1, 33, 47), prediction_module.strip_bytes(torch.device(device))
    sizes: list[int] = []
    with noted_strips(sizes):
        view = whole_view(logits, size)
        prediction = prediction_module.largest([view], size, EvaluateConfig(), budget)
    assert len(sizes) == strips
    assert max(sizes) <= budget
    assert_largest(prediction, resize_logits(logits, size))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_large_map_is_cut_on_a_gpu_too() -> None:
    logits, size = _random_logits(1, 33, 47).cuda(), (2200, 3200)
    model, images = FixedLogits(logits), torch.zeros(1, 3, 8, 8, device="cuda")
    prediction = predict_labels([model], images, size)  # type: ignore[list-item]
    assert_largest(prediction, resize_logits(logits, size))


@pytest.mark.parametrize("size", [(257, 371), (256, 376), (31, 29)])
def test_strips_give_the_same_logits(size: tuple[int, int]) -> None:
    logits = _random_logits(1, 33, 47)
    view = whole_view(logits, size)
    strips = [view.strip(slice(start, start + 10)) for start in range(0, size[0], 10)]
    torch.testing.assert_close(torch.cat(strips, dim=2), resize_logits(logits, size))


@contextmanager
def noted_strips(sizes: list[int]) -> Iterator[None]:
    """Notes the bytes of every strip of a map that is resized."""

    def recording(logits: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
        resized = resize_logits(logits, size, align_corners=align_corners)
        if size[1] > 1:  # not the weights of rows
            sizes.append(resized.numel() * resized.element_size())
        return resized

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips_module, "resize_logits", recording)
        yield


def test_strips_stay_within_their_budget() -> None:
    """No float map of label size exists: the largest resized strip has 4 MiB."""
    sizes: list[int] = []
    with noted_strips(sizes):
        predict_labels(
            [FixedLogits(_random_logits(1, 20, 20))], torch.zeros(1, 3, 8, 8), (1024, 2048)
        )  # type: ignore[list-item]
    assert max(sizes) <= prediction_module.STRIP_BYTES_CPU < 4 * CLASSES * 1024 * 2048
    assert len(sizes) > 10


def test_bfloat16_logits_are_resized_in_float32() -> None:
    logits = _random_logits(1, 6, 6).bfloat16()
    expected = resize_logits(logits.float(), (48, 48)).argmax(dim=1)
    prediction = predict_labels([FixedLogits(logits)], torch.zeros(1, 3, 8, 8), (48, 48))  # type: ignore[arg-type]
    assert torch.equal(prediction.long(), expected)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.75)])
def test_views_average_probabilities_at_label_size(scales: tuple[float, ...], flip: bool) -> None:
    """Against softmax of whole maps, summed view by view."""
    model, size = _model().eval(), (37, 53)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    mean = torch.zeros(2, CLASSES, *size)
    with torch.inference_mode():
        for scale in scales:
            shape = [round(side * scale) for side in size]
            scaled = F.interpolate(images, shape, mode="bilinear", antialias=True)
            logits = [model(scaled).logits]
            if flip:
                logits.append(model(scaled.flip(-1)).logits.flip(-1))
            for each in logits:
                mean += resize_logits(each, size).softmax(dim=1) / (len(scales) * len(logits))
        prediction = predict_labels(
            [model], images, size, config=EvaluateConfig(scales=scales, flip=flip)
        )
    torch.testing.assert_close(prediction.long(), mean.argmax(dim=1))


def test_flip_makes_prediction_symmetric() -> None:
    """With flip, the prediction of the mirror image is the mirrored prediction."""
    images = torch.randn(1, 3, 24, 36, generator=torch.Generator().manual_seed(3))
    straight = predict_labels([FixedLogits()], images, (24, 36), config=EvaluateConfig(flip=True))  # type: ignore[arg-type]
    mirrored = predict_labels(
        [FixedLogits()], images.flip(-1), (24, 36), config=EvaluateConfig(flip=True)
    )  # type: ignore[arg-type]
    assert torch.equal(mirrored.flip(-1), straight)


def test_not_finite_logits_are_an_error() -> None:
    logits = _random_logits(1, 4, 4)
    logits[0, 2, 1, 1] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        predict_labels([FixedLogits(logits)], torch.zeros(1, 3, 8, 8), (32, 32))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(33, 47), (3, 33, 47)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_counts_equal_a_loop_over_pixels(size: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = _labels(size, generator)
    prediction = torch.randint(0, CLASSES, size, generator=generator).to(dtype)
    areas = torch.stack(count_areas(prediction, labels, CLASSES))
    assert areas.dtype == torch.int64
    if len(size) == 2:
        expected = _loop_counts(prediction, labels)
    else:
        pairs = zip(prediction, labels, strict=True)
        expected = np.stack([_loop_counts(*pair) for pair in pairs], axis=1)
    np.testing.assert_array_equal(areas.numpy(), expected)


def test_ignored_pixels_are_in_no_count() -> None:
    labels = torch.tensor([[0, IGNORE], [IGNORE, 1]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8)
    correct, predicted, labelled = count_areas(prediction, labels, 3)
    assert correct.tolist() == [1, 0, 0]
    assert predicted.tolist() == [2, 0, 0]
    assert labelled.tolist() == [1, 1, 0]


def test_only_ignored_pixels_count_nothing() -> None:
    labels = torch.full((4, 4), IGNORE, dtype=torch.uint8)
    areas = count_areas(torch.zeros(4, 4, dtype=torch.uint8), labels, CLASSES)
    assert torch.stack(areas).sum() == 0


def test_255_classes_fit_uint8_labels() -> None:
    labels = torch.arange(256, dtype=torch.uint8).view(16, 16)
    prediction = labels.clamp(max=254)
    correct, predicted, labelled = count_areas(prediction, labels, 255)
    for counts in (correct, predicted, labelled):
        assert torch.equal(counts, torch.ones(255, dtype=torch.int64))


@pytest.mark.parametrize(
    ("prediction", "label", "error", "message"),
    [
        (0, 5, DataError, r"label value 5: allowed are 0 \.\. 4 and 255"),
        (0, 254, DataError, "label value 254"),
        (5, 0, ValueError, r"not in 0 \.\. 4"),
        (-1, 0, ValueError, r"not in 0 \.\. 4"),
    ],
)
def test_values_out_of_range_are_refused(
    prediction: int, label: int, error: type[Exception], message: str
) -> None:
    labels = torch.full((2, 2), label, dtype=torch.uint8)
    with pytest.raises(error, match=message):
        count_areas(torch.full((2, 2), prediction), labels, CLASSES)


@pytest.mark.parametrize("shape", [(2, 3), (4,), (1, 1, 2, 2)])
def test_shapes_must_agree(shape: tuple[int, ...]) -> None:
    labels = torch.zeros(2, 2, dtype=torch.uint8) if len(shape) == 2 else torch.zeros(shape)
    with pytest.raises(ValueError, match="must have one shape"):
        count_areas(torch.zeros(shape, dtype=torch.uint8), labels.to(torch.uint8), CLASSES)


@pytest.mark.parametrize("precision", [FLOAT32, Precision("float32", "channels_last")])
def test_evaluate_equals_whole_images_pixel_by_pixel(precision: Precision) -> None:
    model, dataset = _model(), Images()
    model.to(memory_format=precision.torch_memory_format)
    areas = evaluate(predictor(model, precision), dataset)
    model.eval()
    assert areas.names == ["image-0", "image-1", "image-2"]
    for index in range(len(dataset)):
        sample = dataset[index]
        with torch.inference_mode():
            logits = model(normalise(sample.image)[None]).logits
        prediction = resize_logits(logits, dataset.sizes[index]).argmax(dim=1)[0]
        expected = _loop_counts(prediction, sample.labels)
        np.testing.assert_array_equal(areas.intersection[index], expected[0])
        np.testing.assert_array_equal(areas.predicted[index], expected[1])
        np.testing.assert_array_equal(areas.labelled[index], expected[2])


def test_scores_of_a_split_agree_with_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    model, dataset = _model(), Images()
    areas = evaluate(predictor(model, FLOAT32, scales=(1.0, 1.5), flip=True), dataset)
    oracle = classification.MulticlassJaccardIndex(CLASSES, ignore_index=IGNORE)
    model.eval()
    with torch.inference_mode():
        for _, image, labels in (dataset[index] for index in range(len(dataset))):
            size = (labels.shape[0], labels.shape[1])
            images = normalise(image)[None]
            prediction = predict_labels(
                [model], images, size, config=EvaluateConfig(scales=(1.0, 1.5), flip=True)
            )
            oracle.update(prediction, labels[None].long())
    result = scores(areas.intersection, areas.predicted, areas.labelled)
    # torchmetrics divides in float32
    np.testing.assert_allclose(result.miou, oracle.compute().item(), rtol=1e-6)


def test_areas_are_int64_and_sum_to_the_labelled_pixels() -> None:
    areas = evaluate(predictor(_model(), Precision("bfloat16")), Images())
    pixels = [int((Images()[index].labels != IGNORE).sum()) for index in range(3)]
    for counts in (areas.intersection, areas.predicted, areas.labelled):
        assert counts.shape == (3, CLASSES)
        assert counts.dtype == np.int64
    assert areas.predicted.sum(axis=1).tolist() == pixels
    assert areas.labelled.sum(axis=1).tolist() == pixels


def test_each_modules_mode_is_restored() -> None:
    model = _model().train()
    model.backbone.bn1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(predictor(model, FLOAT32), Images())
    assert not model.backbone.bn1.training
    assert all(m.training for n, m in model.named_modules() if n != "backbone.bn1")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name  # batch norms have learnt nothing


def test_mode_is_restored_after_an_error_which_names_the_image() -> None:
    class Broken(Images):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return sample._replace(labels=torch.full_like(sample.labels, 77))

    model = _model().train()
    with pytest.raises(DataError, match="image-0: undeclared label value 77"):
        evaluate(predictor(model, FLOAT32), Broken())
    assert model.training
    model.head.classifier.weight.data.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="image-0: the model's logits are not finite"):
        evaluate(predictor(model, FLOAT32), Images())


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_ahead_changes_no_count(workers: int) -> None:
    """Of the same images read by hand, one at a time; with what is counted besides, corrupted."""
    config = {"corrupt": {"kind": "noise", "strength": 2}, "confusion": True, "calibration": True}
    applied, dataset = predictor(_model(), FLOAT32, **config), Images()
    areas = evaluate(applied, dataset, workers=workers)
    applied.models[0].eval()
    assert areas.names == ["image-0", "image-1", "image-2"]
    for row in range(3):
        name, image, labels = dataset[row]
        worse = corrupted(image, applied.config.corrupt, name)
        [(prediction, _)] = applied.scored(worse, labels, each=False)
        expected = count_areas(prediction, labels, CLASSES)
        for counts, wanted in zip(
            (areas.intersection, areas.predicted, areas.labelled), expected, strict=True
        ):
            np.testing.assert_array_equal(counts[row], wanted.numpy())
    assert set(areas.further) == {"confusion", "calibration"}


def test_the_next_image_is_read_while_the_model_sees_the_last_one() -> None:
    """The model waits at its first image until the second is being read."""
    begun = threading.Event()

    class Noting(Images):
        def __getitem__(self, index: int) -> Sample:
            if index == 1:
                begun.set()
            return super().__getitem__(index)

    model, seen = _model(), []
    model.register_forward_pre_hook(lambda *_: seen.append(begun.wait(60)))
    evaluate(predictor(model, FLOAT32), Noting())
    assert seen == [True] * 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_and_those_before_it_are_counted(
    workers: int,
) -> None:
    class Broken(Images):
        def __getitem__(self, index: int) -> Sample:
            if index == 2:
                raise DataError("images/2.png: cannot be read")
            return super().__getitem__(index)

    seen: list[int] = []
    with pytest.raises(DataError, match=r"^images/2\.png: cannot be read$"):
        evaluate(
            predictor(_model(), FLOAT32),
            Broken(),
            workers=workers,
            progress=lambda done, _: seen.append(done),
        )
    assert seen == [1, 2]


def test_an_evaluation_that_is_stopped_leaves_no_thread_behind() -> None:
    def stopped(_done: int, _total: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        evaluate(predictor(_model(), FLOAT32), Images(), progress=stopped)
    assert not [each for each in threading.enumerate() if each.name.startswith("ahead")]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to open shared memory object </torch_7_1> in read-write mode (28)"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"),
        OSError(errno.ENOSPC, "No space left on device"),  # of the lock of a queue
    ],
)
def test_workers_without_shared_memory_are_an_error_with_the_remedy(error: Exception) -> None:
    """As torch raises them, while it loads and wherever a signal finds it."""

    class Full(Images):
        def __len__(self) -> int:
            return 1

    def lost(_done: int, _total: int) -> None:
        raise error

    applied = predictor(_model(), FLOAT32)
    with pytest.raises(UserError, match=r"; give worker processes more room: fewer --workers, or"):
        evaluate(applied, Full(), workers=1, progress=lost)
    with pytest.raises(type(error)) as caught:  # no workers, no remedy
        evaluate(applied, Full(), progress=lost)
    assert caught.value is error


def test_progress_counts_images() -> None:
    seen: list[tuple[int, int]] = []
    evaluate(
        predictor(_model(), FLOAT32),
        Images(),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
