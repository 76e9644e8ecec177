"""Ground-truth regions: labels reach the head that declares them, and no other."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from contextbench.config.evaluation import EvaluateConfig
from contextbench.data.base import IGNORE, DataError
from contextbench.evaluation.prediction import predict_labels
from contextbench.models.backbone import build_backbone
from contextbench.models.build import build_model
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter, ideal_regions
from contextbench.records.history import read_history
from contextbench.runs.cells import open_setting
from contextbench.runs.evaluating import evaluate_runs
from contextbench.runs.grid import run_grid
from contextbench.runs.loaded import load
from contextbench.runs.predicting import predict_files
from contextbench.runs.trained import Changes
from contextbench.system.errors import UserError
from heads import HEADS
from heads.interface import Channels, ContextHead, Features, HeadOutput
from tests import small

CLASSES = 4


class RecordingHead(ContextHead):
    """Keeps the regions that it is given; predicts them, or class 0 without."""

    def __init__(self, channels: Channels, *, ideal: bool) -> None:
        super().__init__()
        self.context = nn.Identity()
        self.classifier = nn.Conv2d(channels.layer4, CLASSES, 1)
        self.ideal_regions = CLASSES if ideal else 0
        self.seen: list[Tensor] = []

    def forward(self, features: Features) -> HeadOutput:
        return HeadOutput(self.classifier(features.layer4) * 0, {}, {})

    def forward_with_regions(self, _features: Features, regions: Tensor) -> HeadOutput:
        self.seen.append(regions)
        return HeadOutput(regions, {}, {})


def recording_model(*, ideal: bool) -> Segmenter:
    backbone = build_backbone("resnet10", width=8)
    return Segmenter(backbone, RecordingHead(backbone.channels, ideal=ideal)).eval()


def quadrants() -> Tensor:
    """One label map of 64 x 96 with a class in each quarter and ignored pixels in one of them."""
    labels = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8)
    labels = labels.repeat_interleave(32, dim=0).repeat_interleave(48, dim=1)
    labels[:16, :16] = IGNORE
    return labels[None]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("size", [(4, 6), (8, 12), (5, 7), (64, 96), (100, 131)])
def test_regions_are_one_hot_of_the_nearest_label(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    """Against the definition: the label in which the centre of each feature pixel falls."""
    labels = quadrants().to(dtype)
    regions = ideal_regions(labels, CLASSES, size)
    assert regions.shape == (1, CLASSES, *size)
    for y in range(size[0]):
        for x in range(size[1]):
            row, column = int((y + 0.5) * 64 / size[0]), int((x + 0.5) * 96 / size[1])
            label = int(labels[0, row, column])
            expected = [float(label == k) for k in range(CLASSES)]  # zeros for an ignored pixel
            assert regions[0, :, y, x].tolist() == expected


def test_labels_reach_the_head_that_declares_it_and_no_other() -> None:
    images, labels = torch.rand(1, 3, 64, 96), quadrants()
    ideal, ordinary = (recording_model(ideal=flag) for flag in (True, False))
    torch.testing.assert_close(
        ideal(images, labels).logits, ideal_regions(labels, CLASSES, (8, 12))
    )
    assert ideal.needs_labels
    assert not ordinary.needs_labels
    torch.testing.assert_close(ordinary(images, labels), ordinary(images))
    assert ordinary.head.seen == []


@pytest.mark.parametrize("name", HEADS)
def test_registered_heads_never_see_labels_by_default(name: str) -> None:
    """The output is the same to the bit, whatever the labels say."""
    model = build_model(small.protocol(), small.head(name), CLASSES, seed=0).eval()
    images, labels = torch.rand(1, 3, 64, 96), quadrants()
    assert not model.needs_labels
    with torch.inference_mode():
        assert torch.equal(model(images).logits, model(images, labels).logits)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.5)])
@pytest.mark.parametrize("flip", [False, True])
def test_views_see_their_own_labels(scales: tuple[float, ...], flip: bool) -> None:
    """Each scale at its size, the mirror image mirrored: a head that copies them is right."""
    model, labels = recording_model(ideal=True), quadrants()
    images = torch.rand(1, 3, 64, 96)
    prediction = predict_labels(
        [model], images, (64, 96), labels=labels, config=EvaluateConfig(scales=scales, flip=flip)
    )
    quarters = [tuple(seen.shape[-2:]) for seen in model.head.seen]
    sizes = [(int(8 * scale), int(12 * scale)) for scale in scales]
    assert quarters == [size for size in sizes for _ in range(1 + flip)]
    if flip:
        straight, mirrored = model.head.seen[:2]
        torch.testing.assert_close(straight[:, 1].sum(), mirrored[:, 1].sum())
        assert straight[0, 1, 0, -1] == mirrored[0, 1, 0, 0] == 1
    # Away from the borders between quarters, where resizing the logits mixes two of them.
    inside = torch.zeros(64, 96, dtype=torch.bool)
    for top in (4, 36):
        for left in (4, 52):
            inside[top : top + 24, left : left + 40] = True
    inside &= labels[0] != IGNORE
    inside[:24, :24] = False
    assert torch.equal(prediction[0][inside], labels[0][inside])


def test_prediction_without_labels_is_refused() -> None:
    images = torch.rand(1, 3, 64, 96)
    with pytest.raises(DataError, match="cannot predict images without labels"):
        predict_labels([recording_model(ideal=True)], images, (64, 96))
    predict_labels([recording_model(ideal=False)], images, (64, 96))


def test_a_bound_trains_and_evaluates_and_cannot_predict(tmp_path) -> None:
    """`ground_truth_regions: true` from configuration to record, through the ordinary commands."""
    setting = open_setting(small.protocol(steps=6), None)
    head = small.head("ocr", ground_truth_regions=True)
    execution = small.execution(tmp_path)
    [record] = run_grid(setting, [head], [0], Precision(), execution)
    assert (record.status, record.evaluated_images) == ("done", 3)
    folder = tmp_path / "tiny" / "ocr" / "seed-0"
    assert {"main", "aux"} < set(read_history(folder / "history.jsonl")[0])
    scores = evaluate_runs([folder], execution, split="val", changes=Changes((1.0, 1.5), True))
    assert scores["images"] == 3
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    with pytest.raises(UserError, match="cannot predict images without labels"):
        predict_files(folder, [tmp_path / "image.png"], tmp_path / "out", execution)
    assert not (tmp_path / "out").exists()
    bound = load(folder, device="cpu")
    for use in (bound.predict, bound.logits):
        with pytest.raises(UserError, match="cannot predict images without labels"):
            use(tmp_path / "image.png")


def test_training_gives_ideal_regions_to_the_head(tmp_path, monkeypatch) -> None:
    """A bound learns what its labels tell it: regions of all-ignored labels give another loss."""
    setting = open_setting(small.protocol(steps=3), None)
    head = small.head("ocr", ground_truth_regions=True)
    [told] = run_grid(setting, [head], [0], Precision(), small.execution(tmp_path / "a"))
    monkeypatch.setattr(
        "contextbench.models.segmenter.ideal_regions",
        lambda _labels, k, size: torch.zeros(2, k, *size),
    )
    run_grid(setting, [head], [0], Precision(), small.execution(tmp_path / "b"))
    histories = [
        read_history(tmp_path / folder / "tiny" / "ocr" / "seed-0" / "history.jsonl")
        for folder in ("a", "b")
    ]
    assert told.status == "done"
    assert histories[0][0]["aux"] == histories[1][0]["aux"]  # the same model and batch
    assert histories[0][0]["main"] != histories[1][0]["main"]
