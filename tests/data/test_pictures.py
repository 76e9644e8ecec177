"""Every kind of picture is read exactly, or by a stated convention, or refused with the way out."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from contextbench.data.base import DataError
from contextbench.data.pictures import (
    palette_of,
    picture_header,
    picture_size,
    read_colours,
    read_image,
    read_indices,
    whole_numbers,
)

Pixels = NDArray[np.generic]
GREY, COLOURED, PALETTE = 0, 2, 3  # colour types of PNG
LEVELS = np.arange(12, dtype=np.uint8).reshape(3, 4)
NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(
    path: Path,
    values: Pixels,
    *,
    depth: int,
    colour: int = GREY,
    more: bytes = b"",
    last: bytes = b"",
) -> Path:
    """A PNG written bit by bit, since Pillow writes neither 2 and 4 bits of grey nor 16 of RGB."""
    height, width = values.shape[:2]
    rows = values.reshape(height, -1).astype(np.int64)
    bits = rows[..., None] >> np.arange(depth)[::-1] & 1
    packed = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), more, chunk(b"IDAT", zlib.compress(data)), last]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b""))
    return path


def saved(path: Path, pixels: Pixels, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_png_masks_hold_what_is_stored_at_every_depth(tmp_path: Path, depth: int) -> None:
    """Pillow gives 85 and 17 times the value at 2 and 4 bits; 3 and 15 would be "ignored"."""
    values = np.arange(min(2**depth, 256)).reshape(1, -1)
    path = png(tmp_path / "mask.png", values, depth=depth)
    assert read_indices(path).tolist() == values.tolist()
    assert read_indices(path).dtype == np.uint8


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_masks_hold_their_indices_at_every_depth(tmp_path: Path, depth: int) -> None:
    values = np.arange(2**depth).reshape(1, -1)
    colours = bytes(255 - i for i in range(2**depth) for _ in range(3))
    transparent = chunk(b"tRNS", b"\0")  # of the first index, which indices do not care for
    more = chunk(b"PLTE", colours) + transparent
    path = png(tmp_path / "mask.png", values, depth=depth, colour=PALETTE, more=more)
    assert read_indices(path).tolist() == values.tolist()
    assert palette_of(path)[:2] == [(255, 255, 255), (254, 254, 254)]


def test_a_16_bit_mask_with_a_higher_value_names_it(tmp_path: Path) -> None:
    path = png(tmp_path / "mask.png", np.array([[0, 300]]), depth=16)
    with pytest.raises(DataError, match=r"mask\.png: label value\(s\) \[300\].*0-255"):
        read_indices(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_whole_numbers_in_tiff_masks_are_read_in_every_type(tmp_path: Path, dtype: type) -> None:
    path = saved(tmp_path / "mask.tif", LEVELS.astype(dtype))
    assert read_indices(path).tolist() == LEVELS.tolist()


@pytest.mark.parametrize("bad", [0.5, np.nan, np.inf, -1.0])
def test_other_numbers_in_float_masks_are_named(tmp_path: Path, bad: float) -> None:
    values = LEVELS.astype(np.float32)
    values[0, 0] = bad
    path = saved(tmp_path / "mask.tif", values)
    with pytest.raises(DataError, match=rf"mask\.tif: label value\(s\) \[{bad}"):
        read_indices(path)


@pytest.mark.parametrize("maximum", [1, 3, 20, 254, 255, 300, 65535])
def test_pgm_masks_hold_what_is_stored_up_to_any_maximum(tmp_path: Path, maximum: int) -> None:
    """A maximum of 20, as for the classes of VOC, makes Pillow stretch the values by 12.75."""
    values = list(range(min(maximum, 255) + 1))
    wide = ">u2" if maximum > 255 else "u1"
    path = tmp_path / "mask.pgm"
    header = f"P5 {len(values)} 1 {maximum}\n".encode()
    path.write_bytes(header + np.array(values, dtype=wide).tobytes())
    assert read_indices(path).tolist() == [values]


def test_bmp_gif_and_grey_with_alpha_are_masks_too(tmp_path: Path) -> None:
    for suffix in ("bmp", "gif"):
        path = saved(tmp_path / f"mask.{suffix}", LEVELS)
        assert read_indices(path).tolist() == LEVELS.tolist()
    assert read_indices(saved(tmp_path / "a.png", LEVELS, "LA")).tolist() == LEVELS.tolist()


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("m.jpg", "L", r"m\.jpg: is a mask stored with loss \(JPEG\)"),
        ("m.webp", "RGB", r"m\.webp: is a mask stored with loss \(WEBP\)"),
        ("m.png", "RGB", "mode RGB; index masks of mode L or P"),
        ("m.png", "RGBA", "mode RGBA; index masks"),
        ("m.tif", "CMYK", "mode CMYK; index masks"),
        ("m.tif", "LAB", "mode LAB; index masks"),
        ("m.pbm", "1", "stores white as zero"),
    ],
)
def test_masks_that_would_be_changed_are_refused(
    tmp_path: Path, name: str, mode: str, message: str
) -> None:
    image = Image.new(mode, (4, 3))
    image.save(tmp_path / name)
    with pytest.raises(DataError, match=message):
        read_indices(tmp_path / name)


def test_jpeg_in_tiff_and_inverted_tiff_are_refused_as_masks(tmp_path: Path) -> None:
    path = saved(tmp_path / "lossy.tif", NOISE, compression="jpeg")
    with pytest.raises(DataError, match=r"lossy\.tif: is a mask stored with loss \(TIFF\)"):
        read_colours(path)
    inverted = tmp_path / "inverted.tif"
    saved(inverted, LEVELS, tiffinfo={262: 0})
    with Image.open(inverted) as file:
        assert file.tag_v2[262] == 0
    with pytest.raises(DataError, match="stores white as zero"):
        read_indices(inverted)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGB", "a.png"), ("RGBA", "a.png"), ("RGB", "a.tif"), ("RGB", "a.bmp"), ("RGB", "a.webp")],
)
def test_colour_masks_are_read_from_every_exact_form(tmp_path: Path, mode: str, name: str) -> None:
    path = saved(tmp_path / name, NOISE, mode, **({"lossless": True} if "webp" in name else {}))
    np.testing.assert_array_equal(read_colours(path), NOISE)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_masks_show_their_colours(tmp_path: Path, depth: int) -> None:
    values = np.arange(2**depth).reshape(1, -1)
    colours = np.random.default_rng(1).integers(0, 256, (2**depth, 3), dtype=np.uint8)
    more = chunk(b"PLTE", colours.tobytes())
    path = png(tmp_path / "mask.png", values, depth=depth, colour=PALETTE, more=more)
    np.testing.assert_array_equal(read_colours(path)[0], colours)


def test_an_index_beyond_the_palette_has_no_colour(tmp_path: Path) -> None:
    more = chunk(b"PLTE", bytes(9))
    path = png(tmp_path / "m.png", np.array([[0, 3]]), depth=2, colour=PALETTE, more=more)
    with pytest.raises(DataError, match="pixel value 3, but a palette of 3 colours"):
        read_colours(path)


@pytest.mark.parametrize("read", [read_image, read_colours])
def test_transparent_pixels_are_refused_however_they_are_stored(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    """What lies below alpha 0 is often another picture: it must not appear."""
    hidden = np.dstack([NOISE, np.full(NOISE.shape[:2], 255, np.uint8)])
    hidden[2, 3, 3] = 254
    files = [saved(tmp_path / "rgba.png", hidden)]
    files.append(saved(tmp_path / "la.png", np.dstack([LEVELS, LEVELS]), "LA"))
    key = struct.pack(">HHH", *NOISE[1, 1].tolist())
    files.append(
        png(tmp_path / "key.png", NOISE, depth=8, colour=COLOURED, more=chunk(b"tRNS", key))
    )
    palette = chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", b"\xff\x80")
    files.append(png(tmp_path / "p.png", np.array([[0, 1]]), depth=2, colour=PALETTE, more=palette))
    for path in files:
        with pytest.raises(DataError, match=rf"{path.name}: has transparent pixels \(alpha"):
            read(path)


@pytest.mark.parametrize("read", [read_image, read_colours])
def test_transparency_that_no_pixel_has_changes_nothing(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    unused = struct.pack(">HHH", 1, 2, 3)
    assert not (NOISE == [1, 2, 3]).all(axis=-1).any()
    path = png(tmp_path / "k.png", NOISE, depth=8, colour=COLOURED, more=chunk(b"tRNS", unused))
    opaque = saved(tmp_path / "a.png", NOISE, "RGBA")
    for each in (path, opaque):
        pixels = np.asarray(read(each))
        shown = pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 else pixels
        np.testing.assert_array_equal(shown, NOISE)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("i16.png", LEVELS.astype(np.uint16) * 5000),
        ("i16.tif", LEVELS.astype(np.uint16) * 5000),
        ("i32.tif", LEVELS.astype(np.int32)),
        ("f.tif", LEVELS.astype(np.float32) / 12),
    ],
)
def test_images_of_more_than_8_bits_are_refused(tmp_path: Path, name: str, pixels: Pixels) -> None:
    """Pillow makes them white or black without a word."""
    with pytest.raises(DataError, match=rf"{name}: has (16|32) bits a sample.*8-bit files"):
        read_image(saved(tmp_path / name, pixels))


def test_colours_of_16_bits_are_refused_as_images_and_as_masks(tmp_path: Path) -> None:
    path = png(tmp_path / "wide.png", NOISE.astype(np.uint16) * 200, depth=16, colour=COLOURED)
    with pytest.raises(DataError, match="has 16 bits a sample"):
        read_image(path)
    with pytest.raises(DataError, match="mode RGB with 16 bits a sample"):
        read_colours(path)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_images_of_few_bits_reach_from_black_to_white(tmp_path: Path, depth: int) -> None:
    values = np.arange(2**depth).reshape(1, -1)
    image = read_image(png(tmp_path / "i.png", values, depth=depth)).numpy()
    np.testing.assert_array_equal(image[0, 0], values[0] * 255 // (2**depth - 1))


def test_cmyk_follows_the_formula_and_lab_is_refused(tmp_path: Path) -> None:
    """R = 255 - min(C + K, 255) up to rounding, and so on: no profile is used."""
    inks = np.random.default_rng(2).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "c.tif")
    cyan, black = inks[..., 0].astype(int), inks[..., 3].astype(int)
    expected = np.clip(255 - black - cyan * (255 - black) // 255, 0, 255)
    shown = read_image(tmp_path / "c.tif")[0].numpy().astype(int)
    assert abs(shown - expected).max() <= 1
    Image.new("LAB", (4, 3)).save(tmp_path / "lab.tif")
    with pytest.raises(DataError, match=r"lab\.tif: images of mode LAB"):
        read_image(tmp_path / "lab.tif")


@pytest.mark.parametrize("suffix", ["png", "tif", "gif", "webp"])
def test_several_frames_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(NOISE), Image.fromarray(255 - NOISE)]
    path = tmp_path / f"many.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="holds 2 frames or pages"):
        read_image(path)
    with pytest.raises(DataError, match=r"holds 2 frames or pages|with loss"):
        read_colours(path)


def test_of_an_mpo_file_the_photograph_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (200, 30)]
    frames[0].save(tmp_path / "m.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert abs(read_image(tmp_path / "m.jpg").int() - 200).max() <= 2


EXIF_FORMATS = ("jpg", "png", "tif", "webp")


@pytest.mark.parametrize("suffix", EXIF_FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_applied_as_pillow_shows_them(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    """An image is smooth, so that JPEG does not matter; all eight give other pictures."""
    ramp = np.add.outer(np.arange(16) * 8, np.arange(24) * 3).astype(np.uint8)
    pixels = np.dstack([ramp, ramp[::-1], np.full_like(ramp, 9)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    with Image.open(path) as file:
        shown = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    np.testing.assert_array_equal(read_image(path).numpy().transpose(1, 2, 0), shown)
    assert picture_size(path) == shown.shape[:2]
    assert picture_header(path).orientation == orientation
    if suffix == "tif" and orientation > 1:
        with pytest.raises(DataError, match="TIFF with an orientation"):
            read_image(path, upright=False)
        return
    stored = read_image(path, upright=False).numpy().transpose(1, 2, 0)
    assert picture_size(path, upright=False) == stored.shape[:2] == (16, 24)
    if suffix == "png":
        np.testing.assert_array_equal(stored, pixels)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_masks_are_turned_with_their_images(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "mask.png"
    Image.fromarray(LEVELS).save(path, exif=exif)
    turned = {1: LEVELS, 3: LEVELS[::-1, ::-1], 6: np.rot90(LEVELS, -1)}[orientation]
    assert read_indices(path, upright=True).tolist() == turned.tolist()
    assert read_indices(path).tolist() == LEVELS.tolist()


def test_an_orientation_behind_the_pixels_counts_too(tmp_path: Path) -> None:
    """A PNG may have its EXIF last, where only decoding meets it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    last = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    path = png(tmp_path / "p.png", NOISE, depth=8, colour=COLOURED, last=last)
    assert picture_size(path) == tuple(read_image(path).shape[1:]) == (7, 5)
    assert picture_header(path).orientation == 6


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_a_damaged_exif_block_is_none(tmp_path: Path, exif: bytes) -> None:
    path = saved(tmp_path / "photo.jpg", NOISE, exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).shape == (3, 5, 7)
        assert picture_size(path) == (5, 7)


def test_sizes_need_no_pixels(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", NOISE)
    path.write_bytes(path.read_bytes()[:60])
    assert picture_size(path) == (5, 7)
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(path)


def headers_of(width: int, height: int) -> dict[str, bytes]:
    """Files that claim a size, of a few bytes each."""
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr)
    bmp = struct.pack(
        "<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, *[0] * 4
    )
    return {
        "bomb.png": start + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""),
        "bomb.bmp": bmp,
        "bomb.ppm": f"P6 {width} {height} 255\n".encode(),
    }


@pytest.mark.parametrize("name", ["bomb.png", "bomb.bmp", "bomb.ppm"])
@pytest.mark.parametrize("read", [read_image, read_indices, read_colours, picture_size])
def test_a_size_beyond_reason_is_an_error_with_the_file(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / name
    path.write_bytes(headers_of(50_000, 50_000)[name])
    with pytest.raises(DataError, match=rf"{name}: has more than 178 million pixels.*tiles"):
        read(path)


def test_a_large_image_has_no_warning_without_a_name(tmp_path: Path) -> None:
    """Pillow warns from 89 million pixels on, which is an error in these tests."""
    path = tmp_path / "large.png"
    path.write_bytes(headers_of(12_000, 9_000)["bomb.png"])
    assert picture_size(path) == (9_000, 12_000)


def test_text_bombs_and_short_transparency_are_errors_with_the_file(tmp_path: Path) -> None:
    bomb = PngInfo()
    bomb.add_text("x", "a" * 2 * 10**6, zip=True)
    saved(tmp_path / "text.png", LEVELS, pnginfo=bomb)
    png(tmp_path / "key.png", NOISE, depth=8, colour=COLOURED, more=chunk(b"tRNS", b"\0"))
    for name in ("text.png", "key.png"):
        for read in (read_image, read_indices, read_colours, picture_header, picture_size):
            with pytest.raises(DataError, match=name):
                read(tmp_path / name)


def test_no_other_format_is_opened(tmp_path: Path) -> None:
    (tmp_path / "script.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n")
    with pytest.raises(DataError, match="none of PNG, JPEG, TIFF"):
        read_image(tmp_path / "script.eps")
    with pytest.raises(DataError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")


def samples() -> dict[str, bytes]:
    """One small file of each format."""
    grey, colour = Image.fromarray(LEVELS), Image.fromarray(NOISE)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "png": (colour, {"exif": exif}),
        "p.png": (colour.quantize(4), {"transparency": 1}),
        "jpg": (colour, {"exif": exif}),
        "tif": (colour, {"compression": "tiff_lzw"}),
        "grey.tif": (grey, {}),
        "bmp": (colour, {}),
        "gif": (colour, {}),
        "webp": (colour, {"exif": exif}),
        "ppm": (colour, {}),
    }
    files = {}
    for name, (image, options) in made.items():
        stream = io.BytesIO()
        kind = Image.registered_extensions()[f".{name.rpartition('.')[2]}"]
        image.save(stream, format=kind, **options)
        files[name] = stream.getvalue()
    return files


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Cut, with bytes replaced, with a piece doubled, or with a number blown up."""
    data, kind = bytearray(content), generator.integers(4)
    place = int(generator.integers(len(data)))
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:
        for where in generator.integers(len(data), size=4):
            data[where] = int(generator.integers(256))
    elif kind == 2:
        data[place:place] = data[place : place + 16]
    else:
        data[place : place + 4] = bytes(generator.choice([b"\xff\xff\xff\x7f", b"\0\0\0\0"]))
    return bytes(data)


def test_damaged_files_raise_nothing_but_data_errors(tmp_path: Path) -> None:
    """40 damages of each of nine files; every reader either reads or names the file."""
    generator = np.random.default_rng(0)
    for name, content in samples().items():
        for number in range(40):
            path = tmp_path / f"{number}.{name}"
            path.write_bytes(damaged(content, generator))
            for read in (read_image, read_indices, read_colours, picture_size, picture_header):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        read(path)
                except DataError as error:
                    assert path.name in str(error)  # noqa: PT017, which of many is told by it
            path.unlink()


def test_whole_numbers_may_have_more_than_a_byte() -> None:
    values = np.array([[0, 459]], dtype=np.uint16)
    assert whole_numbers(values, Path("m.mat"), 459).tolist() == [[0, 459]]
    with pytest.raises(DataError, match=r"m\.mat: label value\(s\) \[460\].*0-459"):
        whole_numbers(values + 1, Path("m.mat"), 459)
