"""HRNet: its names and shapes, its options, and weights from files. Its function: tests/interop."""

from pathlib import Path
from typing import Any

import pytest
import torch

from contextbench.config.files import ConfigError
from contextbench.config.protocols import BackboneConfig, InputsConfig, Protocol, load_protocol
from contextbench.models.build import build_model, check_weights
from contextbench.models.hrnet import HRNETS, build_hrnet
from tests import small

SMALL = "hrnet_w18_small_v2"


def protocol(**backbone: Any) -> Protocol:
    config = BackboneConfig(**{"name": SMALL, "output_stride": 4, **backbone})
    return load_protocol("probe").model_copy(update={"backbone": config})


def test_maps_are_half_of_each_other_at_any_size() -> None:
    backbone = build_hrnet(SMALL, output_stride=4).eval()
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, 35, 50))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (18, 9, 13), (36, 5, 7), (270, 9, 13), (270, 9, 13)
    ]  # fmt: skip
    assert backbone.channels == (18, 36, 270, 270)


def test_parameters_are_those_of_the_published_network() -> None:
    """arXiv:1908.07919, Cityscapes: 65.9 M with the classifier, 720 x 720 and 19 x 720."""
    with torch.device("meta"):
        backbone = build_hrnet("hrnet_w48", output_stride=4)
    classifier = 720 * 720 + 3 * 720 + 19 * 721
    counted = sum(each.numel() for each in backbone.parameters()) + classifier
    assert round(counted / 1e6, 1) == 65.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 8}, "output_stride 8: hrnet_w18_small_v2 has maps of stride 4"),
        ({"stem": "deep"}, "leave backbone.stem out"),
        ({"ceil_pool": True}, "leave backbone.ceil_pool out"),
        ({"weights": "IMAGENET1K_V1"}, "a file can be read, no name"),
        ({"name": "resnet18", "output_stride": 8, "scaled_exchange": True}, "is of HRNet"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(protocol(**options), small.head(), 5, seed=0)


@pytest.mark.slow
def test_weights_of_a_file_with_its_classifier(tmp_path: Path) -> None:
    source = build_hrnet(SMALL, output_stride=4)
    state = {**source.state_dict(), "incre_modules.0.0.conv1.weight": torch.ones(2, 2, 1, 1)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    settings = protocol(weights=str(tmp_path / "w.pth"))
    assert "names of HRNet's authors" in (check_weights(settings) or "")
    model = build_model(settings, small.head(), 5, seed=1)
    assert torch.equal(model.backbone.conv1.weight, source.conv1.weight)


def test_other_inputs_are_settings_and_no_weights() -> None:
    inputs = InputsConfig(order="bgr", mean=(1, 2, 3), std=(4, 5, 6))
    plain = build_model(protocol(), small.head(), 5, seed=0)
    other = build_model(protocol(inputs=inputs), small.head(), 5, seed=0)
    assert plain.state_dict().keys() == other.state_dict().keys()
    fingerprints = {protocol(**each).fingerprint("x") for each in ({}, {"inputs": inputs})}
    assert len(fingerprints) == 2
    assert SMALL in HRNETS
