"""Pictures of every kind: right, or one line that names the file."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from small_detectors import patterned
from volta_switch.detector import pictures
from volta_switch.detector.pictures import network_input, read_picture
from volta_switch.detector.settings import DetectorConfig, network_size
from volta_switch.errors import BadRecord

SMALL = patterned(60, 40)


def saved(tmp_path, image: Image.Image, name: str, **how) -> Image.Image:
    image.save(tmp_path / name, **how)
    return read_picture(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = saved(tmp_path, SMALL, "x.png", exif=exif)
    turned = {
        1: SMALL,
        2: ImageOps.mirror(SMALL),
        3: SMALL.rotate(180),
        4: ImageOps.flip(SMALL),
        5: ImageOps.flip(SMALL).rotate(-90, expand=True),
        6: SMALL.rotate(-90, expand=True),
        7: ImageOps.flip(SMALL).rotate(90, expand=True),
        8: SMALL.rotate(90, expand=True),
    }[orientation]
    assert found.size == turned.size and found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), np.asarray(turned))


def test_grey_palettes_and_single_bits_become_rgb(tmp_path):
    for number, mode in enumerate(("L", "P", "1", "RGB")):
        image = SMALL.convert(mode)
        found = saved(tmp_path, image, f"{number}.png")
        np.testing.assert_array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_a_pixel_become_eight(tmp_path, suffix):
    values = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    found = np.asarray(read_picture(tmp_path / f"deep.{suffix}"))
    assert found.shape == (4, 256, 3) and found[0, 0].tolist() == [0] * 3 and found[0, -1].tolist() == [255] * 3
    assert (np.diff(found[0, :, 0].astype(int)) >= 0).all() and found[0, 128, 0] in (127, 128)


def test_cmyk_has_the_colours_of_its_inks(tmp_path):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    found = saved(tmp_path, red, "red.jpg", quality=100)
    r, g, b = np.asarray(found)[4, 4].tolist()
    assert r > 240 and g < 15 and b < 15


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_shows_white(tmp_path, mode):
    image = Image.new("RGBA", (4, 1), (10, 10, 10, 255))
    image.putpixel((1, 0), (10, 10, 10, 0))
    image.putpixel((2, 0), (10, 10, 10, 128))
    found = np.asarray(saved(tmp_path, image.convert(mode), "alpha.png"))[0, :, 0]
    assert found[0] == 10 and found[1] == 255 and 120 < found[2] < 140


def test_a_palette_with_a_transparent_colour_shows_white(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putpixel((1, 0), 1)
    found = saved(tmp_path, image, "palette.png", transparency=0)
    assert np.asarray(found)[0].tolist() == [[255, 255, 255], [0, 200, 0]]


def test_of_an_animation_the_first_frame_counts(tmp_path):
    other = Image.new("RGB", SMALL.size, (0, 0, 255))
    found = saved(tmp_path, Image.new("RGB", SMALL.size, (255, 0, 0)), "x.gif", save_all=True, append_images=[other])
    assert np.asarray(found)[0, 0].tolist() == [255, 0, 0]


def test_bytes_are_read_like_files(tmp_path):
    SMALL.save(tmp_path / "x.png")
    found = read_picture((tmp_path / "x.png").read_bytes(), "member x.png of a.tar")
    np.testing.assert_array_equal(np.asarray(found), np.asarray(SMALL))
    with pytest.raises(BadRecord, match=r"member y of a\.tar: not a picture"):
        read_picture(b"nothing", "member y of a.tar")


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_one_pixel_wide(tmp_path, size):
    found = saved(tmp_path, patterned(*size), "thin.png")
    x = network_input(found, DetectorConfig())
    assert found.size == size and min(x.shape[1:]) >= 1 and max(x.shape[1:]) <= 1000 and torch.isfinite(x).all()


def header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and has hardly any."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_001, 10_000), (50_000, 50_000), (2**30, 2**30)])
def test_more_than_a_hundred_megapixels_are_refused_before_they_are_decoded(tmp_path, size):
    (tmp_path / "huge.png").write_bytes(header(*size))
    with pytest.raises(BadRecord, match=r"huge\.png: .*pixels, at most 100,000,000 are read"):
        read_picture(tmp_path / "huge.png")


def test_a_hundred_megapixels_are_read(tmp_path, monkeypatch):
    """The bound itself is allowed; here with a lower one, and once as it is (marked long)."""
    monkeypatch.setattr(pictures, "MOST_PIXELS", 60 * 40)
    assert saved(tmp_path, SMALL, "x.png").size == (60, 40)
    monkeypatch.setattr(pictures, "MOST_PIXELS", 60 * 40 - 1)
    with pytest.raises(BadRecord, match="60 x 40 pixels, at most 2,399 are read"):
        read_picture(tmp_path / "x.png")


@pytest.mark.long
def test_a_hundred_megapixels_as_they_are(tmp_path):
    image = Image.new("RGB", (10_000, 10_000), (9, 8, 7))
    found = saved(tmp_path, image, "large.jpg")
    assert network_input(found, DetectorConfig()).shape == (3, 600, 600)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_picture_cut_short_is_refused(tmp_path, suffix, share):
    whole = tmp_path / f"whole.{suffix}"
    SMALL.save(whole)
    content = whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(content[: max(1, int(share * len(content)))])
    with pytest.raises(BadRecord) as refused:
        read_picture(cut)
    assert str(cut) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7"]
)
def test_what_is_no_picture_is_refused(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(BadRecord, match=r"x\.jpg: not a picture; expected one of JPEG, PNG"):
        read_picture(tmp_path / "x.jpg")


def test_numbers_without_black_and_white_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(BadRecord, match=r"x\.tif: 32 bits a pixel"):
        read_picture(tmp_path / "x.tif")
    with pytest.raises(BadRecord, match=r"y\.jpg: cannot be read as a picture \(No such file"):
        read_picture(tmp_path / "y.jpg")


def test_the_input_is_blue_green_red_without_the_mean():
    x = network_input(Image.new("RGB", (600, 600), (200, 100, 50)), DetectorConfig())
    expected = torch.tensor([50 - 102.9801, 100 - 115.9465, 200 - 122.7717])
    torch.testing.assert_close(x[:, 300, 300], expected)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (640, 480, (800, 600)),
        (480, 640, (600, 800)),
        (500, 333, (901, 600)),
        (1000, 100, (1000, 100)),
        (1, 5, (200, 1000)),
    ],
)
def test_the_short_side_gets_600_pixels_and_the_long_one_1000_at_most(width, height, expected):
    assert network_size(width, height, DetectorConfig()) == expected
    for resizing in ("pillow", "points"):
        x = network_input(patterned(width, height), DetectorConfig(resizing=resizing))
        assert tuple(x.shape) == (3, expected[1], expected[0])
