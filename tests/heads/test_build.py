"""Building heads by name: what is allowed, and what a typing error is answered with."""

import re

import pytest

from heads import HEADS, build_head
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
        "key_channels, value_channels, share_key_query, aux_width, dropout, implementation"
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


@pytest.mark.parametrize(
    ("name", "options"),
    [("ppm", {"bins": []}), ("ppm", {"bins": [0]}), ("aspp", {"dilations": []})],
)
def test_empty_or_zero_scales(name: str, options: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match="positive"):
        build_head(name, CHANNELS, CLASSES, **options)
