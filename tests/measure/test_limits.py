"""What the fast forms may hold at 1 x 2048 x 128 x 128: deterministic, so a regression is seen.

In MiB (32 is one map of 512 channels, 128 the features themselves), beyond weights and input,
float32, scope `context`. In brackets what the formula as it stands holds.
"""

from typing import Any

import pytest
import torch

from contextbench.measure.counts import FeatureSize, feature_channels, meta_features
from contextbench.measure.memory import predict_inference
from heads import build_head

SIZE = FeatureSize(2048, 128, 128)
MEBI = 2**20

LIMITS: list[tuple[str, dict[str, Any], int]] = [
    ("fcn", {}, 130),
    ("fcn", {"convolutions": 2, "concat_input": True}, 130),  # (256)
    ("ppm", {}, 130),  # (448)
    ("ocnet", {}, 250),  # (2112)
    ("encnet", {}, 200),  # (3106)
    ("ocr", {}, 193),
]


def activation_peak(name: str, implementation: str, options: dict[str, Any]) -> float:
    with torch.device("meta"):
        head = build_head(
            name, feature_channels(SIZE), 19, implementation=implementation, **options
        ).eval()
        inputs = head.context_inputs(meta_features(SIZE))
    return predict_inference(head.context, *inputs).activation_peak_bytes / MEBI


@pytest.mark.parametrize(("name", "options", "limit"), LIMITS)
def test_fast_forms_hold_little(name: str, options: dict[str, Any], limit: int) -> None:
    assert activation_peak(name, "fast", options) <= limit


def test_reference_attention_holds_two_matrices_of_all_pairs() -> None:
    """As the complexity table of the OCR paper: 2 x 16384^2 scores, x (32), key and value (16)."""
    options = {"share_key_query": True}
    assert activation_peak("ocnet", "reference", options) == 2 * 1024 + 32 + 2 * 16
    two_transforms = {"share_key_query": False}
    assert activation_peak("ocnet", "reference", two_transforms) == 2128
