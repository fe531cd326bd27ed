"""A miniature of CORe50 in the official layout: few objects, sessions and frames, the six variants, two runs."""

from __future__ import annotations

import pickle
from io import BytesIO
from itertools import product
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image

OBJECTS = (1, 2, 6, 7, 11, 46)  # plug_adapter1, plug_adapter2, mobile_phone1, ..., remote_control1
TRAIN, TEST = (1, 2, 4), (3, 7)  # sessions
FRAMES = 4

VARIANTS: dict[str, list[list[tuple[int, int]]]] = {
    "ni": [[(session, object) for object in OBJECTS] for session in TRAIN],
    "nc": [[(session, object) for session in TRAIN for object in group] for group in ((7, 1), (2, 46), (11, 6))],
    "nic": [
        [(1, 7), (1, 1)],
        [(1, 2), (1, 46)],
        [(2, 7)],
        [(1, 11), (1, 6)],
        *([(session, object)] for session, object in product((2, 4), OBJECTS) if (session, object) != (2, 7)),
    ],
}
VARIANTS |= {f"nicv2_{n}": VARIANTS["nic"] for n in (79, 196, 391)}
"""The (session, object) of each batch but the last, which is the test set; run 1 has the batches in reverse."""


def path_of(session: int, object: int, frame: int) -> str:
    return f"s{session}/o{object}/C_{session:02d}_{object:02d}_{frame:03d}.png"


def picture(session: int, object: int, frame: int, size: int) -> np.ndarray:
    """An object is a color and a place, a session a background, and no two frames are the same."""
    place = OBJECTS.index(object)
    image = np.full((size, size, 3), 20 * session, np.uint8)
    half, third = size // 2, size // 3
    down, right = divmod(place, 3)
    image[down * half : (down + 1) * half, right * third : (right + 1) * third] = (250, 40 * place, 100)
    image[0, 0] = frame
    return image


def make(folder: Path, size: int = 32, zipped: bool = True) -> Path:
    """The files below `folder`/core50, which is returned."""
    core50 = folder / "core50"
    core50.mkdir(parents=True, exist_ok=True)
    all_of_it: list[tuple[int, int, int]] = list(product(sorted(TRAIN + TEST), OBJECTS, range(FRAMES)))
    paths = [path_of(*which) for which in all_of_it]
    rows = {which: row for row, which in enumerate(all_of_it)}
    name = f"core50_{size}x{size}"
    with ZipFile(core50 / f"{name}.zip" if zipped else BytesIO(), "w") as archive:
        for which, path in zip(all_of_it, paths, strict=True):
            content = BytesIO()
            Image.fromarray(picture(*which, size)).save(content, "png")
            if zipped:
                archive.writestr(f"{name}/{path}", content.getvalue())
            else:
                file = core50 / name / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.getvalue())
    tables: dict[str, dict[str, list[list[list[int]]]]] = {"LUP": {}, "labels": {}}
    test = [(session, object) for session in TEST for object in OBJECTS]
    for variant, batches in VARIANTS.items():
        for table in tables.values():
            table[variant] = []
        for run in (batches, batches[::-1]):
            # the official labels of NC are numbered as the classes come, those of the others are the objects
            came = dict.fromkeys(object for batch in run for _, object in batch) if variant == "nc" else range(1, 51)
            label = {object: number for number, object in enumerate(came)}
            frames = [[(*which, frame) for which in batch for frame in range(FRAMES)] for batch in (*run, test)]
            tables["LUP"][variant].append([[rows[which] for which in batch] for batch in frames])
            tables["labels"][variant].append([[label[object] for _, object, _ in batch] for batch in frames])
    for table, content in (*tables.items(), ("paths", paths)):
        (core50 / f"{table}.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return core50
