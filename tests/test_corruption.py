"""Corrupted images: what each kind does by its formula, and the same for an image whatever else."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from contextbench.config.evaluation import CorruptConfig
from contextbench.config.files import ConfigError
from contextbench.config.protocols import load_protocol
from contextbench.evaluation.corruption import STRENGTHS, corrupted

KINDS = tuple(STRENGTHS)
IMAGE = torch.from_numpy(
    np.random.default_rng(0).integers(0, 256, (3, 6, 8)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
)


def made(kind: str, strength: int, name: str = "a", image: torch.Tensor = IMAGE) -> torch.Tensor:
    config = CorruptConfig.model_validate({"kind": kind, "strength": strength})
    return corrupted(image, config, name)


def difference(one: torch.Tensor, other: torch.Tensor = IMAGE) -> float:
    return float((one.float() - other.float()).abs().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_every_strength_changes_more_and_the_image_itself_never(kind: str) -> None:
    before = IMAGE.clone()
    changes = [difference(made(kind, strength)) for strength in range(1, 6)]
    assert changes == sorted(changes)
    assert changes[0] > 1
    assert torch.equal(IMAGE, before)
    assert made(kind, 5).dtype == torch.uint8
    assert made(kind, 5).shape == IMAGE.shape
    assert corrupted(IMAGE, None, "a") is IMAGE


def test_noise_belongs_to_the_name_of_an_image_and_has_the_deviation_that_it_says() -> None:
    grey = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    for strength, share in enumerate(STRENGTHS["noise"][:3], 1):
        noise = made("noise", strength, "a", grey).float() - 128
        # cut at the range: of deviations up to 0.18 all but 3 in 1000 pixels are within it
        assert float(noise.std()) == pytest.approx(255 * share, rel=0.03)
    torch.rand(3)  # whatever was drawn elsewhere
    assert torch.equal(made("noise", 2, "a"), made("noise", 2, "a"))
    assert not torch.equal(made("noise", 2, "a"), made("noise", 2, "b"))


@pytest.mark.parametrize("strength", [1, 5])
def test_blur_is_that_of_scipy(strength: int) -> None:
    deviation = STRENGTHS["blur"][strength - 1]
    expected = [
        gaussian_filter(channel.astype(np.float64), deviation, mode="nearest", truncate=4)
        for channel in IMAGE.numpy()
    ]
    # rounding to whole numbers
    np.testing.assert_allclose(made("blur", strength).numpy(), np.stack(expected), atol=0.51)


def test_brightness_is_added_to_the_value_of_hue_saturation_and_value() -> None:
    import colorsys

    pixels = torch.tensor([[10, 0, 250], [20, 0, 100], [40, 0, 50]], dtype=torch.uint8)
    found = made("brightness", 2, image=pixels[:, None])[:, 0]
    for column in range(3):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[:, column] / 255).tolist())
        rgb = colorsys.hsv_to_rgb(hue, saturation, min(1, value + STRENGTHS["brightness"][1]))
        assert found[:, column].tolist() == [round(255 * each) for each in rgb]


def test_jpeg_is_the_file_of_that_quality() -> None:
    content = io.BytesIO()
    Image.fromarray(IMAGE.permute(1, 2, 0).numpy()).save(content, "JPEG", quality=18)
    expected = np.array(Image.open(content))
    np.testing.assert_array_equal(made("jpeg", 2).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("corrupt.kind=fog", r"evaluate\.single\.corrupt\.kind.*'noise', 'blur', 'brightness'"),
        ("corrupt.strength=6", r"evaluate\.single\.corrupt\.strength.*less than or equal to 5"),
        ("corrupt.strength=0", r"evaluate\.single\.corrupt\.strength.*greater than or equal to 1"),
        ("corrupt.amount=1", r"unknown key 'evaluate\.single\.corrupt\.amount'"),
        ("trimap=[4,2]", r"evaluate\.single\.trimap.*ascend"),
        ("trimap=[0]", r"evaluate\.single\.trimap"),
        ("boundary={diagonal: null}", r"evaluate\.single\.boundary.*diagonal, pixels or both"),
        ("confusion=maybe", r"evaluate\.single\.confusion"),
    ],
)
def test_settings_that_there_are_not_are_refused(given: str, message: str) -> None:
    base = ["evaluate.corrupt.kind=noise", "evaluate.corrupt.strength=1"]
    with pytest.raises(ConfigError, match=message):
        load_protocol("probe", [*base, f"evaluate.{given}"])


def test_options_change_the_fingerprint_only_where_they_are_given() -> None:
    plain = load_protocol("probe")
    off = ["confusion=false", "boundary=false", "trimap=false", "corrupt=null"]
    same = load_protocol("probe", [f"evaluate.{each}" for each in off])
    assert same.fingerprint("d") == plain.fingerprint("d")
    given = ("confusion=true", "calibration=true", "boundary=true", "trimap=true",
             "corrupt={kind: blur, strength: 2}")  # fmt: skip
    found = {load_protocol("probe", [f"evaluate.{each}"]).fingerprint("d") for each in given}
    assert len(found) == 5
    assert plain.fingerprint("d") not in found


def test_a_further_view_may_have_settings_with_keys_of_their_own() -> None:
    views = ["evaluate.noisy={corrupt: {kind: noise, strength: 1}}"]
    protocol = load_protocol("probe", [*views, "evaluate.noisy.corrupt.strength=4"])
    assert list(protocol.evaluate) == ["single", "noisy"]
    corrupt = protocol.view("noisy").corrupt
    assert corrupt is not None
    assert (corrupt.kind, corrupt.strength) == ("noise", 4)
    assert protocol.view().corrupt is None
