"""Importers against networks that are written out as functions of their tensors' names.

Weights and statistics are random; compared are logits at the size of the image, in float64.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from contextbench.config.files import ConfigError
from contextbench.interop.facts import Facts
from contextbench.interop.files import ImportedError
from tests.interop import networks
from tests.interop.networks import Net, Peer
from tests.interop.peers import (
    TOLERANCE,
    images,
    largest_difference,
    opened,
    our_logits,
    recognised,
)

NESTED = {"nested": True}
IN_PLACE = {"in_place": True}
# source, network, its kind of batch norm, facts; the image's order, mean and deviation.
CAFFE = (102.9801, 115.9465, 122.7717)
ONE = (1.0, 1.0, 1.0)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BGR = ("bgr", CAFFE, ONE)
CASES: dict[str, tuple[Peer, dict[str, bool], tuple[str, Any, Any]]] = {
    "ocnet base": (networks.ocnet_base, IN_PLACE, ("rgb", CAFFE, ONE)),
    "ocnet asp": (networks.ocnet_asp, IN_PLACE, ("rgb", CAFFE, ONE)),
    "ocnet pyramid": (networks.ocnet_pyramid, IN_PLACE, ("rgb", CAFFE, ONE)),
    "openseg ocr": (networks.openseg_ocr, NESTED, BGR),
    "openseg ocr in-place": (networks.openseg_ocr, IN_PLACE, BGR),
    "openseg base_oc": (networks.openseg_base_oc, NESTED, BGR),
    "openseg asp_oc": (networks.openseg_asp_oc, NESTED, BGR),
    "openseg asp_oc in-place": (networks.openseg_asp_oc, IN_PLACE, BGR),
    "openseg fcn": (networks.openseg_fcn, NESTED, BGR),
    "openseg hrnet ocr": (networks.openseg_hrnet_ocr, IN_PLACE, ("bgr", MEAN, STD)),  # sic
    "hrnet ocr": (networks.hrnet_ocr, {}, ("rgb", MEAN, STD)),
    "hrnet fcn": (networks.hrnet_fcn, {"aligned": False}, ("rgb", MEAN, STD)),
    "pytorch-encoding fcn": (networks.encoding_fcn, {}, ("rgb", MEAN, STD)),
    "pytorch-encoding psp": (networks.encoding_psp, {}, ("rgb", MEAN, STD)),
    "pytorch-encoding deeplab": (networks.encoding_deeplab, {}, ("rgb", MEAN, STD)),
    "pytorch-encoding encnet": (networks.encoding_encnet, {}, ("rgb", MEAN, STD)),
}
# One of each family and of each kind of conversion; the others in the slow stage.
QUICK = ("openseg asp_oc in-place", "pytorch-encoding encnet")


def as_trained(x: torch.Tensor, order: str, mean: Any, std: Any) -> torch.Tensor:
    """Images normalised by ImageNet's statistics, as the network takes them."""
    raw = x * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    raw = raw.flip(1) if order == "bgr" else raw
    return (raw - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def saved(path: Path, case: str, **meta: Any) -> Path:
    peer, kind, inputs = CASES[case]
    net = Net(**kind)
    peer(net, as_trained(images(1, 32, 32).double(), *inputs))
    torch.save({"state_dict": net.state, **meta}, path)
    return path


@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow)
             for case in CASES],
)  # fmt: skip
def test_logits_are_those_of_the_network_written_out(case: str, tmp_path: Path) -> None:
    """Two images, an even side, whose rests a pooling takes or not, and an odd one."""
    peer, kind, inputs = CASES[case]
    net, x = Net(**kind), images(2, 48, 57).double()
    expected = net.resize(peer(net, as_trained(x, *inputs)), x)
    torch.save(net.state, tmp_path / "it.pth")
    ours, _ = opened(tmp_path / "it.pth", case.split()[0], Facts(usual=True))
    assert largest_difference(our_logits(ours.double(), x), expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("case", "source", "message"),
    [
        ("openseg base_oc", "hrnet", "none of the heads of HRNet-Semantic-Segmentation"),
        ("pytorch-encoding fcn", "openseg", "is it of another code base"),
        ("pytorch-encoding fcn", "mmseg", "has no decode_head"),
    ],
)
def test_files_of_another_code_base(case: str, source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImportedError, match=message):
        recognised(saved(tmp_path / "it.pth", case), source, Facts(usual=True))


@pytest.fixture(scope="module")
def ocr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("ocr") / "it.pth", "openseg ocr")


def altered(path: Path, state: Mapping[str, torch.Tensor]) -> Path:
    torch.save({"state_dict": dict(state)}, path)
    return path


def test_half_of_the_tensors_is_refused_and_named(ocr: Path, tmp_path: Path) -> None:
    state = torch.load(ocr, weights_only=True)["state_dict"]
    kept = {name: each for name, each in state.items() if "object_context_block" not in name}
    with pytest.raises(ImportedError, match=r"f_down\.0\.weight: parts of the model are missing"):
        opened(altered(tmp_path / "half.pth", kept), "openseg", Facts(usual=True))
    kept = {name: each for name, each in state.items() if "layer4.1" not in name}
    with pytest.raises(ImportedError, match="blocks, which no backbone here has"):
        opened(altered(tmp_path / "half.pth", kept), "openseg", Facts(usual=True))
    # The biases of OCR's classifiers are there in that code, so that their lack is a fault.
    del state["head.bias"]
    with pytest.raises(ImportedError, match=r"1 missing \(head\.bias\)"):
        opened(altered(tmp_path / "half.pth", state), "openseg", Facts(usual=True))


def test_queries_that_are_not_the_keys_are_not_of_the_first_release(tmp_path: Path) -> None:
    state = torch.load(saved(tmp_path / "it.pth", "ocnet base"), weights_only=True)["state_dict"]
    state["context.2.stages.0.f_query.0.weight"] = state["context.2.stages.0.f_key.0.weight"] + 1
    path = altered(tmp_path / "other.pth", state)
    with pytest.raises(ImportedError, match="queries and keys are one transform in OCNet"):
        recognised(path, "ocnet", Facts(usual=True))


def test_what_no_tensor_of_openseg_shows_is_asked_for(ocr: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        recognised(ocr, "openseg", Facts())
    asked = ("output_stride=8", "multi_grid=1,1,1", "inputs=bgr", "std=1.0,1.0,1.0",
             "mean=102.9801,115.9465,122.7717")  # fmt: skip
    for fact in asked:
        assert f"--fact {fact}" in str(caught.value)
    found = recognised(ocr, "openseg", Facts({"std": "1,1,1", "inputs": "rgb"}, usual=True))
    assert found.backbone.inputs is not None
    assert found.backbone.inputs.order == "rgb"
    with pytest.raises(ImportedError, match=r"std is \(1, 1\): expected three numbers"):
        recognised(ocr, "openseg", Facts({"std": "1,1"}, usual=True))


def test_what_the_file_of_openseg_says_of_itself(ocr: Path, tmp_path: Path) -> None:
    state = torch.load(ocr, weights_only=True)["state_dict"]
    config = {
        "data": {"input_mode": "RGB", "num_classes": 5},
        "normalize": {"div_value": 255.0, "mean": [0.485, 0.456, 0.406], "std": [0.2, 0.25, 0.3]},
        "network": {"stride": 8, "multi_grid": [1, 1, 1], "factors": [[8, 8]]},
    }
    torch.save({"config_dict": config, "state_dict": state}, tmp_path / "it.pth")
    facts = Facts()
    found = recognised(tmp_path / "it.pth", "openseg", facts)
    assert found.backbone.inputs is not None
    assert found.backbone.inputs.order == "rgb"
    assert found.backbone.inputs.mean == pytest.approx(MEAN)
    assert found.backbone.inputs.std == pytest.approx((51, 63.75, 76.5))
    assert facts.assumed == {}
    config["network"] = {"stride": 8, "multi_grid": [1, 2, 4]}
    torch.save({"config_dict": config, "state_dict": state}, tmp_path / "it.pth")
    with pytest.raises(ImportedError, match=r"multi_grid \(1, 2, 4\)"):
        recognised(tmp_path / "it.pth", "openseg", Facts())


def test_the_images_of_openseg_on_hrnet(tmp_path: Path) -> None:
    """Published ones are BGR with the statistics of RGB; RGB has these as everywhere."""
    path = saved(tmp_path / "it.pth", "openseg hrnet ocr")
    published = recognised(path, "openseg", Facts(usual=True)).backbone.inputs
    assert published is not None
    assert (published.order, published.mean) == ("bgr", pytest.approx(MEAN))
    facts = Facts({"inputs": "rgb"}, usual=True)
    assert recognised(path, "openseg", facts).backbone.inputs is None
