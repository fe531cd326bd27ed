"""Picture files as squares with 8 bits per channel. A file whose content is ambiguous is refused by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Literal, Protocol

import numpy as np
from PIL import Image, ImageFile, ImageOps

from cl_bench.config import InputError
from cl_bench.config.content import files_below, hidden, natural

log = logging.getLogger(__name__)

ENDINGS = {
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}
MOST_PIXELS = 2**30  # largest picture; it takes 4 GB while it is converted
LARGE = 2**25  # pixels; larger pictures are read one at a time

Background = Literal["white", "black"]


class Picture(Protocol):
    """A file, or an object that can be read like a file. Its text is its name."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO: ...


def classes_below(folder: Path, where: str) -> dict[str, list[Path]]:
    """The pictures of each class folder, in natural order. Other files are left out, with a warning."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not hidden(entry.name)]
    except OSError as error:
        raise InputError(f"{where}: can't be read as a folder ({error.strerror})") from error
    if not names:
        raise InputError(f"{where}: there is no class folder in {folder}")
    found, others = {}, []
    for name in sorted(names, key=natural):
        files = files_below(folder / name)
        found[name] = [file for file in files if file.suffix.lower() in ENDINGS]
        others += [file for file in files if file.suffix.lower() not in ENDINGS]
        if not found[name]:
            raise InputError(f"{where}: there is no picture in {folder / name} ({' '.join(sorted(ENDINGS))})")
    if others:
        log.warning("%s: %d files are not pictures and are ignored, such as %s", where, len(others), others[0])
    return found


def pictures_in(places: Sequence[Path]) -> list[Path]:
    """These picture files, and the picture files in and below these folders, in natural order.

    Raises InputError for missing files, files without the ending of a picture, and folders without pictures.
    """
    found = []
    for place in places:
        if place.is_dir():
            below = files_below(place)
            pictures = [file for file in below if file.suffix.lower() in ENDINGS]
            if others := len(below) - len(pictures):
                log.warning("%s: %d files are not pictures and are ignored", place, others)
            if not pictures:
                raise InputError(f"images: there is no picture in {place} ({' '.join(sorted(ENDINGS))})")
            found += pictures
        elif not place.exists():
            raise InputError(f"images: {place}: no such picture or folder")
        elif place.suffix.lower() not in ENDINGS:
            raise InputError(f"images: {place}: does not have the ending of a picture ({' '.join(sorted(ENDINGS))})")
        else:
            found.append(place)
    return found


def read_pictures(
    files: Sequence[Picture], size: int, grayscale: bool | None, background: Background, where: str
) -> np.ndarray:
    """The center square of each picture, uint8, shape (N, C, size, size). C is 3. It is 1 if `grayscale` is true, or if
    it is null and every picture is gray. Threads help, because decoding releases the interpreter lock.

    Raises InputError with the name of a file that is damaged or ambiguous.
    """
    images = np.empty((len(files), size, size, 1 if grayscale else 3), np.uint8)
    one_at_a_time = Lock()

    def read(row: int) -> None:
        try:
            with files[row].open("rb") as opened, Image.open(opened) as picture:
                pixels = picture.width * picture.height
                if pixels > MOST_PIXELS:
                    raise Unclear(
                        f"has {picture.width}x{picture.height} pixels; at most 2^30 are allowed, make it smaller"
                    )
                if pixels <= LARGE:
                    images[row] = square(picture, size, grayscale, background)
                else:
                    with one_at_a_time:
                        images[row] = square(picture, size, grayscale, background)
        except MemoryError:
            raise
        except Unclear as error:
            raise InputError(f"{where}: {files[row]} {error}") from error
        except Exception as error:  # Pillow raises many classes on a damaged file
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            what = "is damaged or has another format; delete or replace it"
            raise InputError(f"{where}: {files[row]} {what} ({reason})") from error

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # Pillow refuses valid pictures of 180 million pixels
    try:
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(read, range(len(files))):
                pass
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    images = np.moveaxis(images, 3, 1)
    if grayscale is None and (images == images[:, :1]).all():
        images = images[:, :1]
    return np.ascontiguousarray(images)


class Unclear(Exception):
    """A valid but ambiguous picture. The message has the reason, which follows the name of the file."""


def square(picture: ImageFile.ImageFile, size: int, grayscale: bool | None, background: Background) -> np.ndarray:
    """The center of a picture, its shorter side resized to `size`: uint8, shape (size, size, 1 or 3).

    It is rotated as its EXIF data say, 16 bits are scaled to 8, and transparent pixels show the background.
    Raises Unclear for several pictures in a file, and for a depth without a known white.
    """
    n_frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)  # a photograph and its previews
    if n_frames > 1:
        raise Unclear(f"has {n_frames} pictures; save the one that you need in a separate file")
    depth = picture.tile[0][3] if picture.tile else ""  # the layout of pixels in the file
    depth = depth[0] if isinstance(depth, tuple) else depth
    if picture.format == "BMP" and depth == "BGRX":
        check_fourth_bytes(picture)
    seen = ImageOps.exif_transpose(picture)
    if seen.mode in ("L", "RGB") or seen.mode.startswith("I"):
        if "transparency" in seen.info and seen.mode != depth:
            raise Unclear("marks a color as transparent but has no 8-bit pixels; save it with an alpha channel")
        if seen.mode.startswith("I"):
            seen = Image.fromarray(_eight_bits(seen, picture))
    if seen.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"):
        raise Unclear(f"has {seen.mode} pixels, whose black and white are not known; save it with 8 or 16 bits")
    if seen.has_transparency_data:
        seen = _laid_on(background, seen.convert("RGBA"))
    seen = ImageOps.fit(seen.convert("L" if grayscale else "RGB"), (size, size), Image.Resampling.BILINEAR)
    return np.asarray(seen).reshape(size, size, -1)


def check_fourth_bytes(picture: ImageFile.ImageFile) -> None:
    """Raises Unclear for a 32-bit BMP file whose fourth bytes differ: they may be alpha or not."""
    assert picture.fp is not None
    picture.fp.seek(picture.tile[0].offset)
    fourth = picture.fp.read(4 * picture.width * picture.height)[3::4]
    if fourth.strip(fourth[:1]):
        raise Unclear("has a fourth byte per pixel that may mean transparency; save it as PNG")


def _eight_bits(picture: Image.Image, file: ImageFile.ImageFile) -> np.ndarray:
    """A gray picture of up to 16 bits as uint8."""
    values = np.asarray(picture)
    tags = getattr(file, "tag_v2", {})  # of a TIFF file
    bits = tags.get(258, (16,))[0]
    if picture.mode == "I" and file.format not in ("PNG", "PPM"):  # theirs are 16 bits
        raise Unclear("has 32-bit numbers, whose black and white are not known; save it with 8 or 16 bits")
    gray = np.round(values.astype(np.float32) * (255 / (2**bits - 1))).astype(np.uint8)
    return 255 - gray if tags.get(262) == 0 else gray  # 0 is white


def _laid_on(background: Background, picture: Image.Image) -> Image.Image:
    flat = Image.new("RGBA", picture.size, background)
    flat.alpha_composite(picture)
    pixels, colors = np.asarray(picture), np.asarray(flat.convert("RGB"))
    if not pixels[..., 3].any():
        raise Unclear("is completely transparent; save it without its alpha channel")
    if (colors == colors[0, 0]).all() and not (pixels == pixels[0, 0]).all():
        other = "black" if background == "white" else "white"
        raise Unclear(f"cannot be seen on a {background} background; set dataset.background={other}")
    return flat
