"""What a picture file may hold comes out as it is meant to be seen, or is refused with the file's name."""

from __future__ import annotations

import logging
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cl_bench.config import InputError
from cl_bench.data.datasets import Dataset, image_folder
from cl_bench.data.pictures import read_pictures

GRAY = np.round(np.linspace(0, 255, 64)).astype(np.uint8).reshape(8, 8)  # every row and column is another one
COLOR = np.dstack([GRAY, GRAY.T, 255 - GRAY])


def read(file: Path, **settings: Any) -> np.ndarray:
    """The one picture of a file at its own size, shape (C, 8, 8)."""
    settings = {"grayscale": None, "background": "white"} | settings
    return read_pictures([file], 8, where="here", **settings)[0]


def png(*rows: bytes, depth: int, kind: int, size: tuple[int, int], transparent: bytes = b"") -> bytes:
    """A PNG file of Pillow's own making can't hold 16-bit color. kind: 0 gray, 2 RGB, 4 gray and alpha, 6 RGBA."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    clear = chunk(b"tRNS", transparent) if transparent else b""
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + clear + body + chunk(b"IEND", b"")


def deep(values: np.ndarray, kind: int, transparent: bytes = b"") -> bytes:
    """8x8 values of 8 bits as a PNG file of 16."""
    rows = [(row.astype(">u2") * 257).astype(">u2").tobytes() for row in values]
    return png(*rows, depth=16, kind=kind, size=(8, 8), transparent=transparent)


WIDE = GRAY.astype(np.uint16) * 257
ALPHA = np.dstack([np.zeros((8, 8, 3), np.uint8), GRAY])  # black, more or less
SAVED: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
    "16-bit png": (Image.fromarray(WIDE), "png", {}),
    "16-bit tiff": (Image.fromarray(WIDE), "tiff", {}),
    "16-bit tiff, high byte first": (Image.frombytes("I;16B", (8, 8), WIDE.astype(">u2").tobytes()), "tiff", {}),
    "16-bit tiff, compressed": (Image.fromarray(WIDE), "tiff", {"compression": "tiff_deflate"}),
    "16-bit pgm": (Image.fromarray(WIDE), "pgm", {}),
    "8-bit bmp": (Image.fromarray(GRAY), "bmp", {}),
    "8-bit tga": (Image.fromarray(GRAY), "tga", {}),
    "gray and opaque alpha": (Image.merge("LA", [Image.fromarray(GRAY), Image.new("L", (8, 8), 255)]), "png", {}),
    "gray gif": (Image.fromarray(GRAY), "gif", {}),
    "gray palette": (Image.fromarray(GRAY).convert("P"), "png", {}),
    "RGB of grays": (Image.fromarray(GRAY).convert("RGB"), "png", {}),
    "lossless webp": (Image.fromarray(GRAY), "webp", {"lossless": True}),
    "jpeg 2000": (Image.fromarray(GRAY), "jp2", {}),
}


@pytest.mark.parametrize("kind", SAVED)
def test_gray_of_any_depth_is_the_same_gray(tmp_path: Path, kind: str) -> None:
    image, ending, options = SAVED[kind]
    image.save(tmp_path / f"a.{ending}", **options)
    assert np.array_equal(read(tmp_path / f"a.{ending}"), GRAY[None])


COLORS: dict[str, bytes] = {
    "16-bit RGB": deep(COLOR, 2),
    "16-bit RGBA": deep(np.dstack([COLOR, np.full((8, 8), 255)]), 6),
}


@pytest.mark.parametrize("kind", COLORS)
def test_deep_color(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(COLORS[kind])
    assert np.array_equal(read(tmp_path / "a.png"), np.moveaxis(COLOR, 2, 0))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_ways_to_write_color(tmp_path: Path, mode: str) -> None:
    hues = np.zeros((8, 8, 3), np.uint8)
    hues[:4, :4, 0] = hues[4:, :4, 1] = hues[:4, 4:, 2] = 255
    Image.fromarray(hues).convert(mode).save(tmp_path / "a.tif")
    assert np.abs(read(tmp_path / "a.tif").astype(int) - np.moveaxis(hues, 2, 0)).max() <= 2


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read(tmp_path / "a.jpg")[:, 4, 4].astype(int) - (255, 0, 0)).max() < 8


def test_one_bit(tmp_path: Path) -> None:
    Image.fromarray(GRAY > 127).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png")[0], np.where(GRAY > 127, 255, 0))
    for depth, row in ((1, b"\xf0"), (2, b"\xff\x00"), (4, b"\xff\xff\x00\x00")):
        (tmp_path / "a.png").write_bytes(png(*[row] * 8, depth=depth, kind=0, size=(8, 8)))
        assert read(tmp_path / "a.png")[0, 0].tolist() == [255] * 4 + [0] * 4


def tiff(values: np.ndarray, bits: int, white: int) -> bytes:
    """A little-endian TIFF file of one gray strip. white: 0 when 0 is white, 1 when it is black."""
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        strip = b"".join(bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in pairs)
    else:
        strip = values.astype("<u2").tobytes()
    tags = [(256, 8), (257, 8), (258, bits), (259, 1), (262, white), (273, 8), (277, 1), (278, 8), (279, len(strip))]
    table = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + table + bytes(4)


def test_tiff_of_twelve_bits_and_with_a_white_zero(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(np.round(GRAY * (4095 / 255)), 12, white=1))
    assert np.array_equal(read(tmp_path / "a.tif")[0], GRAY)
    (tmp_path / "a.tif").write_bytes(tiff(WIDE, 16, white=0))
    assert np.array_equal(read(tmp_path / "a.tif")[0], 255 - GRAY)


@pytest.mark.parametrize("ending", ["png", "webp", "tiff"])
def test_what_is_transparent_shows_the_background(tmp_path: Path, ending: str) -> None:
    exact: dict[str, Any] = {"lossless": True, "exact": True} if ending == "webp" else {}
    Image.fromarray(ALPHA).save(tmp_path / f"a.{ending}", **exact)
    assert np.array_equal(read(tmp_path / f"a.{ending}")[0], 255 - GRAY)
    white = ALPHA + np.array([255, 255, 255, 0], np.uint8)
    Image.fromarray(white).save(tmp_path / f"a.{ending}", **exact)
    assert np.array_equal(read(tmp_path / f"a.{ending}", background="black")[0], GRAY)
    with pytest.raises(InputError, match=rf"a\.{ending} cannot be seen on a white background; .*background=black"):
        read(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("ending", ["png", "tga"])
def test_a_picture_with_nothing_but_transparent_shapes_is_named(tmp_path: Path, ending: str) -> None:
    """As some programs save 32 bits whose last 8 mean nothing."""
    hidden = np.dstack([GRAY, GRAY, GRAY, np.zeros_like(GRAY)])
    for pixels in (hidden, np.zeros_like(hidden)):
        Image.fromarray(pixels).save(tmp_path / f"a.{ending}")
        with pytest.raises(InputError, match=rf"a\.{ending} is completely transparent; save it without its alpha chan"):
            read(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("fourth", [0, 255, None])
def test_the_fourth_bytes_of_a_bmp_file_are_nothing_or_refused(fourth: int | None, tmp_path: Path) -> None:
    """Pillow reads them as unused, and saves an alpha channel there."""
    alpha = GRAY if fourth is None else np.full_like(GRAY, fourth)
    Image.fromarray(np.dstack([GRAY, GRAY, GRAY, alpha])).save(tmp_path / "a.bmp")
    if fourth is None:
        with pytest.raises(
            InputError, match=r"a\.bmp has a fourth byte per pixel that may mean transparency; save it as PNG"
        ):
            read(tmp_path / "a.bmp")
    else:
        assert (read(tmp_path / "a.bmp") == GRAY).all()


def test_other_kinds_of_transparency(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    half = np.where(np.arange(8)[:, None] < 4, 10, 200).repeat(8, 1).astype(np.uint8)
    expected = np.where(half == 10, 255, 200)
    Image.fromarray(half).save(file, transparency=10)  # a gray that is transparent
    assert np.array_equal(read(file)[0], expected)
    Image.fromarray(half).convert("RGB").save(file, transparency=(10, 10, 10))
    assert np.array_equal(read(file)[0], expected)
    Image.fromarray(half).convert("P").save(file, transparency=10)  # an entry of the palette
    assert np.array_equal(read(file)[0], expected)
    Image.fromarray(half).convert("P").save(file, transparency=bytes([255] * 10 + [0] + [255] * 245))
    assert np.array_equal(read(file)[0], expected)
    Image.fromarray(half).convert("P").save(tmp_path / "a.gif", transparency=10)
    assert np.array_equal(read(tmp_path / "a.gif")[0], expected)
    Image.fromarray(half > 100).save(file, transparency=0)
    assert np.array_equal(read(file, background="black")[0], np.where(half > 100, 255, 0))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (deep(GRAY, 0, struct.pack(">H", 2570)), "marks a color as transparent but has no 8-bit pixels"),
        (deep(COLOR, 2, struct.pack(">HHH", 1, 2, 3)), "marks a color as transparent but has no 8-bit pixels"),
        (png(*[b"\xff\x00"] * 8, depth=2, kind=0, size=(8, 8), transparent=b"\0\x03"), "has no 8-bit pixels"),
    ],
)
def test_a_transparent_color_of_another_depth_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"^here: {tmp_path / 'a.png'} .*{reason}"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_that_was_turned(tmp_path: Path, orientation: int, ending: str) -> None:
    upright = np.full((8, 8), 40, np.uint8)
    upright[:4, :4] = 220  # a bright corner
    upright[:4, 4:] = 130
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, 3),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    options = {
        "png": {"exif": exif},
        "jpg": {"exif": exif, "quality": 100},
        "webp": {"exif": exif, "lossless": True},
        "tif": {"tiffinfo": {274: orientation}},
    }
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a.{ending}", **options[ending])
    assert np.abs(read(tmp_path / f"a.{ending}")[0].astype(int) - upright).max() <= 8


def test_deep_and_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(WIDE, 1).copy()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read(tmp_path / "a.png")[0], GRAY)


@pytest.mark.parametrize("ending", ["gif", "png", "tif", "webp"])
def test_several_pictures_in_a_file_are_refused(tmp_path: Path, ending: str) -> None:
    frames = [Image.fromarray(GRAY + 20 * number).convert("RGB") for number in range(3)]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=rf"^here: {tmp_path}/a\.{ending} has 3 pictures"):
        read(tmp_path / f"a.{ending}")


def test_a_photograph_with_its_previews_is_the_photograph(tmp_path: Path) -> None:
    first, other = Image.new("RGB", (8, 8), (200, 200, 200)), Image.new("RGB", (8, 8))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[other])
    assert read(tmp_path / "a.jpg").min() > 190


@pytest.mark.parametrize(
    ("image", "ending", "what"),
    [
        (Image.fromarray(GRAY.astype(np.float32)), "tif", "has F pixels"),
        (Image.fromarray(GRAY.astype(np.int32)), "tif", "has 32-bit numbers"),
        (Image.new("LAB", (8, 8)), "tif", "has LAB pixels"),
    ],
)
def test_numbers_whose_white_is_not_known_are_refused(
    tmp_path: Path, image: Image.Image, ending: str, what: str
) -> None:
    image.save(tmp_path / f"a.{ending}")
    with pytest.raises(InputError, match=rf"^here: {tmp_path}/a\.{ending} {what}"):
        read(tmp_path / f"a.{ending}")


def test_a_portable_float_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pnm").write_bytes(b"Pf\n8 8\n-1.0\n" + GRAY.astype("<f4").tobytes())
    with pytest.raises(InputError, match=r"a\.pnm has F pixels"):
        read(tmp_path / "a.pnm")


def test_grayscale(tmp_path: Path) -> None:
    Image.fromarray(COLOR).save(tmp_path / "color.png")
    Image.fromarray(GRAY).save(tmp_path / "gray.png")
    files = [tmp_path / "color.png", tmp_path / "gray.png"]
    luma = (COLOR @ np.array([0.299, 0.587, 0.114])).round()
    gray, all_gray = read_pictures(files[1:], 8, None, "white", "here"), read_pictures(files, 8, True, "white", "here")
    assert gray.shape == (1, 1, 8, 8)
    assert all_gray.shape == (2, 1, 8, 8)
    assert np.abs(all_gray[0, 0] - luma).max() <= 1
    assert read_pictures(files[1:], 8, False, "white", "here").shape == (1, 3, 8, 8)
    assert read_pictures(files, 8, None, "white", "here").shape == (2, 3, 8, 8)


def test_the_center_square_is_cut_out_whichever_side_is_longer(tmp_path: Path) -> None:
    for name, image in (("wide", np.pad(GRAY, ((0, 0), (3, 3)))), ("high", np.pad(GRAY, ((5, 5), (0, 0))))):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        assert np.array_equal(read(tmp_path / f"{name}.png")[0], GRAY)


def test_a_large_picture_is_no_damaged_one(tmp_path: Path) -> None:
    """Pillow takes more than 179 million pixels for a bomb."""
    whole = np.zeros((14_000, 14_000), bool)
    whole[:, 7000:] = True
    Image.fromarray(whole).save(tmp_path / "a.png", compress_level=1)
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = read(tmp_path / "a.png", grayscale=True)[0, 0].tolist()
    assert row[:3] + row[5:] == [0] * 3 + [255] * 3
    assert before == Image.MAX_IMAGE_PIXELS
    Image.new("L", (14_000, 3)).save(tmp_path / "b.png")
    assert read(tmp_path / "b.png").shape == (1, 8, 8)


def test_a_picture_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(b"", depth=8, kind=0, size=(200_000, 200_000)))
    with pytest.raises(InputError, match=r"a\.png has 200000x200000 pixels; at most 2\^30 are allowed"):
        read(tmp_path / "a.png")


# --------------------------------------------------------------------------------------------- the folder


def folder(root: Path, classes: list[str], n: int = 2) -> Dataset:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.new("L", (8, 8), 10 * label + i).save(root / name / f"{i}.png")
    return image_folder(path=str(root), size=8)


def test_numbered_folders_come_in_their_order_and_keep_their_names(tmp_path: Path) -> None:
    names = [str(number) for number in range(12)]
    data = folder(tmp_path, sorted(names))
    assert data.class_names == tuple(names)
    grays = data.x_train[:, 0, 0, 0].tolist()
    assert grays == [10 * sorted(names).index(name) + 1 for name in names]
    assert data.y_train.tolist() == list(range(12))


def test_what_systems_leave_is_no_class_and_no_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder(tmp_path, ["b", "a"])
    before = image_folder(path=str(tmp_path), size=8)
    for name in (
        ".ipynb_checkpoints/0.png",
        "__MACOSX/a/0.png",
        "a/.DS_Store",
        "a/Thumbs.db",
        "b/._0.png",
        "a/.x/1.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"not for us")
    with caplog.at_level(logging.WARNING):
        after = image_folder(path=str(tmp_path), size=8)
    assert after.class_names == before.class_names == ("a", "b")
    assert (after.x_train == before.x_train).all()
    assert not caplog.messages


def test_what_is_no_picture_is_left_out_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder(tmp_path, ["a", "b"])
    (tmp_path / "a" / "photo.HEIC").touch()
    (tmp_path / "b" / "below").mkdir()
    Image.new("L", (8, 8), 77).save(tmp_path / "b" / "below" / "3.PNG")
    with caplog.at_level(logging.WARNING):
        data = image_folder(path=str(tmp_path), size=8)
    assert "1 files are not pictures and are ignored" in caplog.text
    assert "photo.HEIC" in caplog.text
    assert 77 in data.x_train.unique()


def test_links_that_go_in_a_circle_end(tmp_path: Path) -> None:
    folder(tmp_path, ["a", "b"])
    os.symlink(tmp_path / "a", tmp_path / "a" / "again")
    assert len(image_folder(path=str(tmp_path), size=8).x_train) == 2
