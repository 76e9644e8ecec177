"""Parameters and multiply-accumulates of each `context` as published integers and closed forms."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.heads.counting import PAPER, Count, Setting, counted, layer, product, small_setting


def fcn(s: Setting, width: int = 512) -> Count:
    return layer(s.channels.layer4, width, s.pixels, kernel=3, extra=3)


def fcn_concat(s: Setting, width: int = 512) -> Count:
    total = fcn(s, width) + layer(width, width, s.pixels, kernel=3, extra=3)
    return total + layer(s.channels.layer4 + width, width, s.pixels, kernel=3)


def ppm(s: Setting, width: int = 512) -> Count:
    c, bins = s.channels.layer4, (1, 2, 3, 6)
    total = layer(2 * c, width, s.pixels, kernel=3)
    for b in bins:
        total += layer(c, c // 4, b * b)
    return total


def aspp(s: Setting, width: int = 256) -> Count:
    c = s.channels.layer4
    total = layer(c, width, 1) + layer(c, width, s.pixels) + layer(5 * width, width, s.pixels)
    for _ in range(3):
        total += layer(c, width, s.pixels, kernel=3)
    return total


def ocnet(s: Setting, width: int = 512, key: int = 256, shared: bool = True) -> Count:
    total = fcn(s, width)
    for _ in range(1 if shared else 2):
        total += layer(width, key, s.pixels, extra=3)
    total += layer(width, key, s.pixels, extra=1)  # value
    total += product(s.pixels, s.pixels, key) + product(s.pixels, s.pixels, key)
    total += layer(key, width, s.pixels, extra=1)  # output
    return total + layer(2 * width, width, s.pixels, extra=3)


def ocnet_two_transforms(s: Setting, width: int = 512, key: int = 256) -> Count:
    return ocnet(s, width, key, shared=False)


def encnet(s: Setting, width: int = 512, codewords: int = 32) -> Count:
    total = layer(s.channels.layer4, width, s.pixels, kernel=3)
    total += Count(codewords * width + codewords + 2 * codewords, 0)  # codewords, scales, norm
    total += product(s.pixels, codewords, width)  # distances
    total += product(s.pixels, codewords, width)  # aggregation
    return total + layer(width, width, 1, extra=1)  # gate


def region_relation(s: Setting, width: int, key: int, transforms: int = 1) -> Count:
    """phi on pixels, psi on regions, and their products."""
    total = product(s.classes, s.pixels, key)
    for positions in (s.pixels, s.classes):
        total += layer(width, key, positions, extra=3)
        for _ in range(transforms - 1):
            total += layer(key, key, positions, extra=3)
    return total


def region_context(s: Setting, width: int, key: int, relation: Count) -> Count:
    """Region vectors, delta on them, gathering and rho; coarse maps and softmax are free."""
    total = product(s.classes, s.pixels, width) + layer(width, key, s.classes, extra=3)
    total += product(s.classes, s.pixels, key)
    return total + layer(key, width, s.pixels, extra=3) + relation


def ocr(s: Setting, width: int = 512, key: int = 256, relation: Count | None = None) -> Count:
    relation = relation or region_relation(s, width, key)
    total = fcn(s, width) + region_context(s, width, key, relation)
    return total + layer(2 * width, width, s.pixels, extra=3)


def ocr_pixel_delta(s: Setting, width: int = 512, key: int = 256) -> Count:
    """delta at every pixel instead of every region, and one more gathering, of its outputs."""
    moved = 0, width * key * (s.pixels - s.classes) + s.classes * s.pixels * key
    return ocr(s, width, key) + moved


def ocr_released(s: Setting, width: int = 512, key: int = 256) -> Count:
    return ocr(s, width, key, region_relation(s, width, key, transforms=2))


def ocr_double_attention(s: Setting, width: int = 512, key: int = 256) -> Count:
    return ocr(s, width, key, layer(width, s.classes, s.pixels, extra=1))


def ocr_acf(s: Setting, width: int = 512, key: int = 256) -> Count:
    return ocr(s, width, key, Count(0, 0))


def asp_ocr(s: Setting, width: int = 512, branch: int = 256, key: int = 128) -> Count:
    c = s.channels.layer4
    total = layer(c, branch, s.pixels, kernel=3, extra=3)
    total += region_context(s, branch, key, region_relation(s, branch, key, transforms=2))
    total += layer(c, branch, s.pixels, extra=3)
    for _ in range(3):
        total += layer(c, branch, s.pixels, kernel=3, extra=3)
    return total + layer(5 * branch, width, s.pixels, extra=3)


Formula = Callable[..., Count]
TWO = {"share_key_query": False}
CONCAT = {"convolutions": 2, "concat_input": True}

# Base-OC: 2 x 309,237,645,312 FLOPs are sometimes given, evaluating the shared transform twice.
PUBLISHED: list[tuple[str, dict[str, Any], Formula, Count]] = [
    ("fcn", {}, fcn, Count(9_438_720, 154_618_822_656)),
    ("fcn", CONCAT, fcn_concat, Count(23_597_056, 386_547_056_640)),
    ("ppm", {}, ppm, Count(23_073_792, 309_290_074_112)),
    ("aspp", {}, aspp, Count(15_535_104, 245_887_401_984)),
    ("ocnet", {}, ocnet, Count(10_359_296, 309_237_645_312 - 128 * 128 * 512 * 256)),
    ("ocnet", TWO, ocnet_two_transforms, Count(10_491_136, 309_237_645_312)),
    ("encnet", {}, encnet, Count(9_717_344, 155_155_955_712)),
    ("ocr", {}, ocr, Count(10_492_672, 167_827_472_384)),
    ("ocr", {"delta_on": "pixels"}, ocr_pixel_delta, Count(10_492_672, 170_052_157_440)),
    ("ocr", {"transforms": 2}, ocr_released, Count(10_625_280, 168_902_459_392)),
]
IDS = ["fcn", "fcn-concat", "ppm", "aspp", "ocnet", "ocnet-two-transforms", "encnet", "ocr"]
IDS += ["ocr-pixel-delta", "ocr-released"]


# What the fast form adds at 128 x 128 to the multiply-accumulates of the formula.
CELLS = 1 + 4 + 9 + 36
SAVED = {
    # 3x3 on 2048 channels instead of 4096; products of cells, and their spreading over the map
    "ppm": -PAPER.pixels * 9 * 2048 * 512 + CELLS * 9 * 512 * (512 + PAPER.pixels),
    "aspp": -256 * 256 * (PAPER.pixels - 1),  # the pooled branch fused once, not at every pixel
}


# Nobody prints counts of these, so the closed form stands alone.
UNPUBLISHED: list[tuple[str, dict[str, Any], Formula]] = [
    ("ocr", {"relation": "double_attention"}, ocr_double_attention),
    ("ocr", {"relation": "acf"}, ocr_acf),
    ("ocr", {"ground_truth_regions": True}, ocr_acf),  # relations are given there, too
    ("asp_ocr", {}, asp_ocr),
]


@pytest.mark.parametrize(("name", "options", "formula", "published"), PUBLISHED, ids=IDS)
def test_published_setting(
    name: str, options: dict[str, Any], formula: Formula, published: Count
) -> None:
    """Both forms: pooled heads save in the fast one what the next two tests say."""
    assert formula(PAPER) == published
    assert counted(name, PAPER, (128, 128), implementation="reference", **options) == published
    fast = counted(name, PAPER, (128, 128), **options)
    assert fast == published + Count(0, SAVED.get(name, 0))


@pytest.mark.parametrize(("name", "options", "formula", "_published"), PUBLISHED, ids=IDS)
def test_small_setting(
    name: str, options: dict[str, Any], formula: Formula, _published: Count
) -> None:
    small = small_setting(33, 29)
    options = {"width": 32, "implementation": "reference", **options}
    assert counted(name, small, (33, 29), **options) == formula(small, width=32)


@pytest.mark.parametrize(("name", "options", "formula"), UNPUBLISHED)
def test_closed_form(name: str, options: dict[str, Any], formula: Formula) -> None:
    for setting, size in ((PAPER, (128, 128)), (small_setting(33, 29), (33, 29))):
        expected = formula(setting, width=48)
        given = {"width": 48, **options}
        assert counted(name, setting, size, implementation="reference", **given) == expected
    assert counted(name, PAPER, (128, 128), width=48, **options) == formula(PAPER, width=48)


def test_fast_pyramid_convolves_cells_instead_of_maps() -> None:
    """3x3 on 2048 channels instead of 4096, 450 products of 512 x 512, and the spreading."""
    pixels, cells = PAPER.pixels, 1 + 4 + 9 + 36
    own = pixels * 9 * 2048 * 512
    pooled = cells * 2048 * 512
    taps = cells * 9 * 512 * 512
    spreading = cells * 9 * 512 * pixels
    macs = own + pooled + taps + spreading
    assert counted("ppm", PAPER, (128, 128)) == Count(ppm(PAPER).parameters, macs)


def test_fast_atrous_pyramid_on_a_small_map_skips_invisible_taps() -> None:
    """33 x 33: dilation 36 sees its centre only; 12 and 24 keep all nine taps."""
    setting = Setting(PAPER.channels, 19, 33 * 33)
    skipped = 8 * 2048 * 256 * setting.pixels
    pooled = 256 * 256 * (setting.pixels - 1)  # fused once instead of at every pixel
    expected = aspp(setting)
    assert counted("aspp", setting, (33, 33)).macs == expected.macs - skipped - pooled


@pytest.mark.parametrize("name", ["ocnet", "encnet", "fcn", "ocr"])
def test_other_fast_forms_cost_the_same_products(name: str) -> None:
    fast = counted(name, PAPER, (16, 24))
    assert fast == counted(name, PAPER, (16, 24), implementation="reference")
