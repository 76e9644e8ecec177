"""Class weights against their formulas on counts that can be made in the head."""

import math

import pytest
import torch

from contextbench.config.files import ConfigError
from contextbench.data.base import IGNORE, LabelSet, Sample
from contextbench.training.class_weights import ClassPixels, class_weights, counted


class TwoImages:
    """Image 0 has 6 pixels of class 0 and 2 of class 1, image 1 has 4 of class 0; class 2 never."""

    labels = LabelSet(("a", "b", "c"), ((0, 0, 0),) * 3)

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        values = [[0] * 6 + [1] * 2 + [IGNORE] * 2, [0] * 4 + [IGNORE] * 6][index]
        labels = torch.tensor(values, dtype=torch.uint8).view(2, 5)
        return Sample(str(index), torch.zeros(3, 2, 5, dtype=torch.uint8), labels)

    def fingerprint(self) -> str:
        return "two"


COUNTS = ClassPixels(dataset_fingerprint="two", pixels=[10, 2, 0], image_pixels=[12, 8, 0])


def test_pixels_are_counted_once(tmp_path) -> None:
    dataset, path, reads = TwoImages(), tmp_path / "class_pixels.json", []
    assert counted(dataset, "two", path, reads.append) == COUNTS
    assert counted(dataset, "two", path, reads.append) == COUNTS
    assert dataset.reads == 2
    assert reads == [1, 2]
    assert counted(dataset, "another", path, reads.append).dataset_fingerprint == "another"
    assert dataset.reads == 4


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 5000,
        '{"dataset_fingerprint": "two", "pixels": [10, 2, -1], "image_pixels": [12, 8, 0]}',
        '{"dataset_fingerprint": "two", "pixels": [10, 2], "image_pixels": [12, 8]}',
        '{"dataset_fingerprint": "two", "pixels": [10, 9, 0], "image_pixels": [12, 8, 0]}',
        '{"dataset_fingerprint": "two", "pixels": [10, 2, 0], "image_pixels": [12, 8]}',
    ],
    ids=["cut off", "deep", "negative", "other classes", "more than there are", "other lengths"],
)
def test_a_corrupt_file_is_counted_again(tmp_path, content: str) -> None:
    path = tmp_path / "class_pixels.json"
    path.write_text(content)
    assert counted(TwoImages(), "two", path, print) == COUNTS


def test_median_frequency() -> None:
    """f = 10/12, 2/8; their median is 13/24; the class that never occurs has none."""
    weights = class_weights("median_frequency", lambda: COUNTS, 3)
    torch.testing.assert_close(weights, torch.tensor([13 / 24 * 12 / 10, 13 / 24 * 4, 0.0]))


def test_a_split_without_labels_has_no_weights() -> None:
    nothing = ClassPixels(dataset_fingerprint="two", pixels=[0, 0], image_pixels=[0, 0])
    for weighting in ("median_frequency", "inverse_log"):
        with pytest.raises(ConfigError, match="no pixel of the split is labelled"):
            class_weights(weighting, lambda: nothing, 2)


def test_inverse_log() -> None:
    expected = [1 / math.log(1.02 + share) for share in (10 / 12, 2 / 12, 0)]
    weights = class_weights("inverse_log", lambda: COUNTS, 3)
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_listed_weights_need_no_counts() -> None:
    def fail() -> ClassPixels:
        raise AssertionError

    assert class_weights((1.0, 2.0, 0.5), fail, 3).tolist() == [1.0, 2.0, 0.5]
    with pytest.raises(ConfigError, match="2 weights for 3 classes"):
        class_weights((1.0, 2.0), fail, 3)
