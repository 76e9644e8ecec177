"""What heads say a pixel attends to, against what their own modules compute with it."""

import itertools

import pytest
import torch
from torch import Tensor

from heads import HEADS, contract
from heads.contract import PIXEL
from heads.interface import Attended, ContextHead, Features
from tests.cases import quick
from tests.heads import loops
from tests.heads.small import IMPLEMENTATIONS, VARIANTS, small_features, small_head, subject

CHANNELS_ONLY = "danet-channel"  # an attention between channels is of no pixel
WEIGHTS = ("attention", "level-", "round-", "regions", "codewords")  # of sum 1, by their meaning

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
every_head = pytest.mark.parametrize("variant", quick(VARIANTS, HEADS))


def exact(variant: str, implementation: str = "fast", **options: int) -> tuple[ContextHead, Tensor]:
    """A head in float64, and the deepest features for it."""
    head = small_head(variant, implementation).double().eval()
    size = {"height": 9, "width": 7, **options}
    return head, small_features(**size, dtype=torch.float64).layer4


def attended(head: ContextHead, layer4: Tensor, pixel: tuple[int, int]) -> dict[str, Attended]:
    """For heads that look at nothing but layer4."""
    return head.attend(Features(layer4, layer4, layer4, layer4), pixel)


def mixed(weights: Tensor, values: Tensor) -> Tensor:
    """sum_j weights_j values_j over the pixels: (N, h, w), (N, C, h, w) -> (N, C, 1, 1)."""
    return (weights[:, None] * values).sum(dim=(2, 3), keepdim=True)


def at(x: Tensor, pixel: tuple[int, int]) -> Tensor:
    """(N, C, h, w) -> (N, C, 1, 1)."""
    return x[:, :, pixel[0], pixel[1], None, None]


@every_form
@every_head
def test_shapes_signs_and_sums(variant: str, implementation: str) -> None:
    contract.attention_is_a_map(subject(variant), implementation)
    head = small_head(variant, implementation)
    parts = head.attend(small_features(9, 7), PIXEL)
    has_attention = type(head)._attend is not ContextHead._attend
    assert (parts != {}) == (has_attention and variant != CHANNELS_ONLY)
    for name, (values, *_) in parts.items():
        if name.startswith(WEIGHTS) and not variant.startswith("isa"):  # which may weigh padding
            torch.testing.assert_close(values.flatten(1).sum(dim=1), torch.ones(2))


@every_form
@every_head
def test_nothing_of_the_head_changes(variant: str, implementation: str) -> None:
    contract.attending_changes_nothing(subject(variant), implementation)


@every_head
def test_both_forms_and_each_image_alone_give_the_same(variant: str) -> None:
    contract.attention_is_that_of_each_image(subject(variant))


@pytest.mark.parametrize("pixel", [(9, 0), (0, 7), (-1, 0)])
def test_a_pixel_outside_is_refused(pixel: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"outside the features, \(9, 7\)"):
        small_head("ocnet").attend(small_features(9, 7), pixel)


@every_form
@pytest.mark.parametrize("variant", ["ocnet", "ocnet-two-transforms"])
def test_ocnet_gathers_by_the_row(variant: str, implementation: str) -> None:
    """The whole context at the pixel: y = relu(bn(F [U sum_j a_ij v_j, x_i]))."""
    head, layer4 = exact(variant, implementation)
    row = attended(head, layer4, PIXEL)["attention"].values
    context = head.context
    x = context.reduce(layer4)
    gathered = context.attention.output(mixed(row, context.attention.value(x)))
    expected = context.fuse(torch.cat([gathered, at(x, PIXEL)], dim=1))
    torch.testing.assert_close(at(context(layer4), PIXEL), expected)


@every_form
@pytest.mark.parametrize(("height", "width"), [(9, 7), (12, 6), (4, 13)])
def test_pyramid_levels_gather_by_their_rows(implementation: str, height: int, width: int) -> None:
    head, layer4 = exact("pyramid_oc", implementation, height=height, width=width)
    x = head.context.reduce(layer4)
    levels = [level(x) for level in head.context.levels]
    for pixel in itertools.product((0, 3, height - 1), (0, 4, width - 1)):
        rows = attended(head, layer4, pixel)
        assert len(rows) == len(levels) == 4
        for row, level, output in zip(rows.values(), head.context.levels, levels, strict=True):
            expected = level.output(mixed(row.values, level.value(x)))
            torch.testing.assert_close(at(output, pixel), expected)


@every_form
@pytest.mark.parametrize("variant", ["asp_oc", "asp_oc-authors"])  # with aligned corners
@pytest.mark.parametrize(("height", "width"), [(8, 6), (9, 7), (5, 1)])
def test_asp_oc_gathers_pooled_pixels(
    implementation: str, variant: str, height: int, width: int
) -> None:
    """The pixels that a pooled one covers share its weight; an odd last row or column has none."""
    head, layer4 = exact(variant, implementation, height=height, width=width)
    branch = head.context.object
    x = head.context.reduce(layer4)
    z = branch.local(x)
    kernel = (2, min(2, width))
    pooled = torch.nn.functional.max_pool2d(z, kernel)
    output = branch(x)
    for pixel in ((0, 0), (2, width // 2), (height - 1, width - 1)):
        row = attended(head, layer4, pixel)["attention"].values
        share = torch.nn.functional.avg_pool2d(row[:, None], kernel, divisor_override=1)
        gathered = branch.attention.output(mixed(share[:, 0], branch.attention.value(pooled)))
        torch.testing.assert_close(at(output, pixel), branch.activate(gathered))
        within = share.repeat_interleave(2, 2).repeat_interleave(kernel[1], 3) / (2 * kernel[1])
        covered = row[:, : within.shape[2], : within.shape[3]]
        torch.testing.assert_close(covered, within[:, 0])
        assert row.sum() == pytest.approx(covered.sum().item())


@every_form
def test_danet_gathers_by_the_row(implementation: str) -> None:
    head, layer4 = exact("danet", implementation)
    row = attended(head, layer4, PIXEL)["attention"].values
    branch = head.context.branches["position"]
    x = branch.reduce(layer4)
    attention = branch.attention
    expected = at(x, PIXEL) + attention.gate * mixed(row, attention.value(x))
    torch.testing.assert_close(at(attention(x), PIXEL), expected)


@every_form
def test_ccnet_gathers_by_both_rounds_and_their_product(implementation: str) -> None:
    """H2 = H1 + g A2 V(H1) and H1 = H + g A1 V(H), with V(H) = W H + b, so at a pixel
    H2 = H + g (a1 + a2) V(H) + g^2 W (a2 A1) V(H): the two crosses and the composed map.
    """
    head, layer4 = exact("ccnet", implementation)
    maps = {name: part.values for name, part in attended(head, layer4, PIXEL).items()}
    x, attention = head.context.reduce(layer4), head.context.attention
    value, gate = attention.value(x), attention.gate
    once = mixed(maps["round-1"] + maps["round-2"], value)
    weight = attention.value.weight
    twice = torch.nn.functional.conv2d(mixed(maps["attention"], value), weight)
    expected = at(x, PIXEL) + gate * once + gate**2 * twice
    torch.testing.assert_close(at(attention(x), PIXEL), expected)


def test_ccnet_rounds_reach_the_cross_and_two_of_them_all() -> None:
    head, layer4 = exact("ccnet")
    maps = attended(head, layer4, PIXEL)
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(7), indexing="ij")
    cross = (rows == PIXEL[0]) | (columns == PIXEL[1])
    for name in ("round-1", "round-2"):
        assert ((maps[name].values > 0) == cross).all()
    assert (maps["attention"].values > 0).all()


@every_form
@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3)])
def test_isa_gathers_by_far_and_near_rows(implementation: str, height: int, width: int) -> None:
    """relu(bn(U sum_j a_ij V x_j)) twice, with the rows of every pixel; x is 0 on padding."""
    head, layer4 = exact("isa-pairs", implementation, height=height, width=width)
    x, attention = head.context.reduce(layer4), head.context.attention
    pixels = list(itertools.product(range(height), range(width)))
    rows = {pixel: attended(head, layer4, pixel) for pixel in pixels}
    gathered = torch.zeros_like(x)
    for pixel in pixels:
        far = rows[pixel]["far"].values
        gathered[:, :, pixel[0], pixel[1]] = attention.far.output(
            mixed(far, attention.far.value(x))
        )[:, :, 0, 0]
    output = attention(x)
    for pixel in pixels:
        near = rows[pixel]["near"].values
        if near.sum() < 2 - 1e-9:  # of two images: the rest of the group is padding
            continue
        expected = attention.near.output(mixed(near, attention.near.value(gathered)))
        torch.testing.assert_close(at(output, pixel), expected)
        composed = sum(near[:, y, x, None, None] * rows[y, x]["far"].values for y, x in pixels)
        torch.testing.assert_close(rows[pixel]["attention"].values, composed)


def test_isa_weights_that_miss_to_one_fall_on_padding() -> None:
    head, layer4 = exact("isa", height=16, width=8)
    for part in attended(head, layer4, PIXEL).values():
        torch.testing.assert_close(part.values.sum(dim=(1, 2)), torch.ones(2).double())
    head, layer4 = exact("isa", height=15, width=8)
    near = attended(head, layer4, (14, 0))["near"].values.sum(dim=(1, 2))
    assert (near < 1).all()


@every_form
@pytest.mark.parametrize("variant", [v for v, (name, _) in VARIANTS.items() if "ocr" in name])
def test_ocr_gathers_regions_by_their_weights(variant: str, implementation: str) -> None:
    """y_i = rho(sum_k w_ik delta(f_k)) with f_k = sum_j m_kj x_j, from weights and places."""
    head = small_head(variant, implementation).double().eval()
    features = small_features(9, 7, dtype=torch.float64)
    parts = head.attend(features, PIXEL)
    weights, places = parts["regions"].values, parts["regions"].places
    composed = parts["attention"].values
    assert places is not None
    layer4, maps = head.context_inputs(features)
    x, module = head.context.reduce(layer4), head.context.regions
    if module.scheme.delta_on == "pixels":
        gathered = mixed(composed, module.delta(x))
    else:
        regions = torch.cat([mixed(mask, x) for mask in places.unbind(1)], dim=2)  # (N, C, K, 1)
        gathered = torch.einsum("nk,ndkl->ndl", weights, module.delta(regions))[..., None]
        plain = torch.einsum("nk,nckl->ncl", weights, regions)[..., None]
        torch.testing.assert_close(mixed(composed, x), plain)
    torch.testing.assert_close(at(module(x, maps), PIXEL), module.rho(gathered))


@every_form
def test_double_attention_deals_what_it_gathered(implementation: str) -> None:
    """y_i = psi(sum_j attention_j phi(x_j))."""
    head, layer4 = exact("double_attention", implementation)
    row = attended(head, layer4, PIXEL)["attention"].values
    x, attention = head.context.reduce(layer4), head.context.attention
    expected = attention.psi(mixed(row, attention.phi(x)))
    torch.testing.assert_close(at(attention(x), PIXEL), expected)


@every_form
def test_encnet_assigns_the_pixel_and_gates_it(implementation: str) -> None:
    """a_ik = softmax_k(-s_k |x_i - c_k|^2) by hand; the context is gate times x_i."""
    head, layer4 = exact("encnet", implementation)
    parts = attended(head, layer4, PIXEL)
    x, encoding = head.context.encoder.reduce(layer4), head.context.encoder.encoding
    codewords, scales = encoding.codewords.tolist(), encoding.scale.tolist()
    for image, pixel in enumerate(at(x, PIXEL)[:, :, 0, 0].tolist()):
        distances = [sum((a - c) ** 2 for a, c in zip(pixel, cs, strict=True)) for cs in codewords]
        scores = [-s * d for s, d in zip(scales, distances, strict=True)]
        expected = torch.tensor(loops.softmax(scores), dtype=torch.float64)
        torch.testing.assert_close(parts["codewords"].values[image], expected)
    gated = parts["gate"].values[:, :, None, None] * at(x, PIXEL)
    torch.testing.assert_close(at(head.context(layer4), PIXEL), gated)


def test_encnet_similarity_is_mutual() -> None:
    head, layer4 = exact("encnet")
    there = attended(head, layer4, PIXEL)["similarity"].values[:, 2, 1]
    back = attended(head, layer4, (2, 1))["similarity"].values[:, *PIXEL]
    torch.testing.assert_close(there, back)
