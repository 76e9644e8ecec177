"""Building heads by name: what is allowed, and what a typing error is answered with."""

import inspect
import re

import pytest
from torch import nn

from heads import HEADS, build_head
from heads.attention import SelfAttention
from heads.blocks import PixelClassifier
from tests.heads.small import CHANNELS, CLASSES


@pytest.mark.parametrize("name", HEADS)
def test_builds_the_registered_class(name: str) -> None:
    assert type(build_head(name, CHANNELS, CLASSES)) is HEADS[name]


def test_unknown_head_names_the_nearest_and_all() -> None:
    message = "unknown head 'orc'; did you mean 'ocr'? allowed: " + ", ".join(HEADS)
    with pytest.raises(ValueError, match=re.escape(message)):
        build_head("orc", CHANNELS, CLASSES)


def test_a_name_like_no_other_gets_the_list_alone() -> None:
    with pytest.raises(ValueError, match="unknown head 'zzz'; allowed: fcn, "):
        build_head("zzz", CHANNELS, CLASSES)


def test_unknown_option_names_head_nearest_and_all() -> None:
    message = (
        "head 'ocnet' has no option 'key_chanels'; did you mean 'key_channels'? allowed: width, "
        "key_channels, value_channels, share_key_query, transforms, release, aux_width, dropout, "
        "implementation, activation"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        build_head("ocnet", CHANNELS, CLASSES, key_chanels=8)


@pytest.mark.parametrize("name", HEADS)
def test_positional_parameters_are_not_options(name: str) -> None:
    with pytest.raises(ValueError, match="no option 'self'"):
        build_head(name, CHANNELS, CLASSES, self=1)


@pytest.mark.parametrize("name", HEADS)
def test_unknown_implementation(name: str) -> None:
    with pytest.raises(
        ValueError, match="unknown implementation 'quick'; allowed: fast, reference"
    ):
        build_head(name, CHANNELS, CLASSES, implementation="quick")


@pytest.mark.parametrize("name", ["ocnet", "pyramid_oc", "asp_oc", "encnet", "ccnet"])
def test_unknown_release(name: str) -> None:
    with pytest.raises(ValueError, match="unknown release 'mine'; allowed: paper, authors"):
        build_head(name, CHANNELS, CLASSES, release="mine")


@pytest.mark.parametrize(
    ("name", "options"),
    [("ppm", {"bins": []}), ("ppm", {"bins": [0]}), ("aspp", {"dilations": []})],
)
def test_empty_or_zero_scales(name: str, options: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match="positive"):
        build_head(name, CHANNELS, CLASSES, **options)


# Every default that decides about numbers, with where it is from; sections and tables are those of
# the paper that the head's docstring cites, and "suite" is one choice for all heads.
PUBLISHED_DEFAULTS: dict[str, dict[str, tuple[object, str]]] = {
    "fcn": {
        "width": (512, "the dilated FCN of the other heads' papers"),
        "convolutions": (1, "the same"),
        "concat_input": (False, "the same"),
        "kernel": (3, "the same; on HRNet: 1"),
        "dropout": (0.1, "suite"),
    },
    "ppm": {
        "bins": ((1, 2, 3, 6), "section 3.2"),
        "width": (512, "released network"),
        "pool_width": (None, "a B-th of the input: section 3.2"),
        "pooling": ("average", "Table 1: the best"),
        "reduction": (True, "Table 1: the best"),
        "align_corners": (False, "suite; released: True"),
        "dropout": (0.1, "released network"),
    },
    "aspp": {
        "dilations": ((12, 24, 36), "section 3.3, at output stride 8"),
        "width": (256, "section 3.3"),
        "image_pooling": (True, "section 3.3"),
        "fuse_kernel": (1, "section 3.3; mmsegmentation: 3"),
        "refine": (False, "section 3.3; torchvision: True"),
        "dropout": (0.1, "suite"),
    },
    "ocnet": {
        "width": (512, "released network"),
        "key_channels": (256, "released network"),
        "value_channels": (256, "released network"),
        "share_key_query": (True, "first released network"),
        "transforms": (1, "first released network; later: 2"),
        "release": ("paper", "suite"),
        "dropout": (0.1, "suite; released: 0.05"),
    },
    "pyramid_oc": {
        "width": (512, "released network"),
        "key_channels": (256, "half the width: released network"),
        "value_channels": (512, "the width: released network"),
        "bins": ((1, 2, 3, 6), "released network"),
        "release": ("paper", "suite"),
        "dropout": (0.1, "suite; released: 0.05"),
    },
    "asp_oc": {
        "width": (512, "twice the branches: released network"),
        "branch_width": (256, "released network"),
        "key_channels": (128, "half the branches: released network"),
        "value_channels": (256, "the branches: first released network"),
        "share_key_query": (True, "first released network"),
        "transforms": (1, "first released network; later: 2"),
        "align_corners": (False, "suite"),
        "dilations": ((12, 24, 36), "released network"),
        "release": ("paper", "suite"),
        "dropout": (0.1, "released network"),
    },
    "encnet": {
        "width": (512, "released network"),
        "codewords": (32, "released network"),
        "se_loss": (True, "section 3"),
        "se_stage3": (False, "released network"),
        "lateral": (False, "default of the released network"),
        "release": ("paper", "suite"),
        "dropout": (0.1, "released network"),
    },
    "ocr": {
        "width": (512, "released network"),
        "key_channels": (256, "released network"),
        "region_supervision": (True, "section 3.2"),
        "relation": ("ocr", "section 3.2"),
        "transforms": (1, "section 3.2; released: 2"),
        "delta_on": ("regions", "section 3.2"),
        "ground_truth_regions": (False, "a bound, not a method"),
        "aux_kernel": (3, "released network on ResNet; on HRNet: 1"),
        "dropout": (0.05, "released network"),
    },
    "isa": {
        "width": (512, "released network"),
        "key_channels": (256, "released network"),
        "down_factor": (8, "the paper"),
        "dropout": (0.05, "released network"),
    },
    "double_attention": {
        "width": (512, "as the heads it is compared with"),
        "key_channels": (256, "parameters and FLOPs that Yuan et al. print"),
        "regions": (64, "the same"),
        "dropout": (0.1, "suite"),
    },
    "danet": {
        "width": (512, "a quarter of the input: released network"),
        "key_channels": (64, "an eighth of the width: released network"),
        "position": (True, "section 3"),
        "channel": (True, "section 3"),
        "dropout": (0.1, "released network"),
    },
    "ccnet": {
        "width": (512, "a quarter of the input: released network"),
        "key_channels": (64, "an eighth of the width: released network"),
        "recurrence": (2, "section 3"),
        "release": ("paper", "suite"),
        "dropout": (0.1, "released network"),
    },
    "asp_ocr": {
        "width": (512, "released module"),
        "context_width": (256, "released module"),
        "branch_width": (256, "released module"),
        "key_channels": (128, "half the branches: released module"),
        "transforms": (2, "released module"),
        "dilations": ((12, 24, 36), "released module"),
        "dropout": (0.1, "released module"),
    },
    "non_local": {
        "width": (512, "a quarter of the input: mmsegmentation"),
        "key_channels": (256, "half the width: section 3.3"),
        "pairwise": ("embedded_gaussian", "section 4.1"),
        "scaled": (False, "section 3.2; mmsegmentation: True"),
        "concat_input": (True, "mmsegmentation"),
        "dropout": (0.1, "mmsegmentation"),
    },
    "dnlnet": {
        "width": (512, "a quarter of the input: mmsegmentation"),
        "key_channels": (256, "half the width: mmsegmentation"),
        "temperature": (1.0, "section 3; mmsegmentation: 0.05"),
        "scaled": (False, "section 3; mmsegmentation: True"),
        "concat_input": (True, "mmsegmentation"),
        "dropout": (0.1, "mmsegmentation"),
    },
    "gcnet": {
        "width": (512, "a quarter of the input: mmsegmentation"),
        "bottleneck": (128, "a quarter of the width: mmsegmentation"),
        "concat_input": (True, "mmsegmentation"),
        "dropout": (0.1, "mmsegmentation"),
    },
    "emanet": {
        "width": (256, "released network"),
        "inner_channels": (512, "released network"),
        "bases": (64, "released network"),
        "stages": (3, "released network"),
        "momentum": (0.9, "section 4.1"),
        "concat_input": (False, "released network; mmsegmentation: True"),
        "dropout": (0.1, "released network"),
    },
    "deeplabv3plus": {
        "dilations": ((12, 24, 36), "the paper's for stride 16, doubled: section 3.1 of DeepLabv3"),
        "width": (256, "section 4.1"),
        "low_channels": (48, "section 4.1"),
        "image_pooling": (True, "section 3.1"),
        "separable": (False, "section 4.1, with ResNet-101"),
        "fuse_kernel": (1, "section 3.1; mmsegmentation: 3"),
        "align_corners": (False, "suite"),
        "dropout": (0.1, "suite"),
    },
    "upernet": {
        "bins": ((1, 2, 3, 6), "as PSPNet's: section 3.1"),
        "width": (512, "section 4.1"),
        "align_corners": (False, "suite"),
        "dropout": (0.1, "released network"),
    },
}


@pytest.mark.parametrize("name", HEADS)
def test_defaults_are_the_published_ones(name: str) -> None:
    signature = inspect.signature(HEADS[name]).parameters.values()
    defaults = {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
    published = {option: value for option, (value, _) in PUBLISHED_DEFAULTS[name].items()}
    assert defaults == {**published, "aux_width": None, "implementation": "fast"}


@pytest.mark.parametrize("name", HEADS)
def test_leaky_relu_takes_the_place_of_every_relu(name: str) -> None:
    plain, leaky = (
        build_head(name, CHANNELS, CLASSES, activation=each) for each in ("relu", "leaky_relu")
    )
    activations = [part for part in plain.modules() if isinstance(part, nn.ReLU)]
    replaced = [part for part in leaky.modules() if isinstance(part, nn.LeakyReLU)]
    assert activations
    assert len(replaced) == len(activations)
    assert not any(isinstance(part, nn.ReLU) for part in leaky.modules())
    assert {part.negative_slope for part in replaced} == {0.01}


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="unknown activation 'gelu'; allowed: relu, leaky_relu"):
        build_head("fcn", CHANNELS, CLASSES, activation="gelu")


@pytest.mark.parametrize("name", HEADS)
def test_dropout_reaches_every_classifier(name: str) -> None:
    """Of the head and of its branches, and there is no other."""
    head = build_head(name, CHANNELS, CLASSES, width=8, dropout=0.3)
    dropouts = [part for part in head.modules() if isinstance(part, nn.Dropout2d)]
    classifiers = [part for part in head.modules() if isinstance(part, PixelClassifier)]
    assert len(dropouts) == len(classifiers) >= 2
    assert {part.p for part in dropouts} == {0.3}


@pytest.mark.parametrize("name", ["ocnet", "pyramid_oc", "asp_oc"])
def test_gathering_starts_at_zero_in_the_authors_release_only(name: str) -> None:
    for release, start in (("paper", False), ("authors", True)):
        head = build_head(name, CHANNELS, CLASSES, width=8, release=release)
        outputs = [part.output for part in head.modules() if isinstance(part, SelfAttention)]
        parameters = [parameter for layer in outputs for parameter in layer.parameters()]
        assert parameters
        assert all((parameter == 0).all().item() is start for parameter in parameters)
