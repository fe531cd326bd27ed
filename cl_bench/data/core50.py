"""CORe50 (Lomonaco and Maltoni, 2017): 50 objects of 10 categories before 11 backgrounds, in the official orders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from annotated_types import Ge, Le
from PIL import Image
from torch import Tensor

from cl_bench.config import InputError
from cl_bench.config.names import place
from cl_bench.data.batches import NO_TASK, Data
from cl_bench.data.problem import Kind, Problem, TrainMask
from cl_bench.data.reading import read_pickle, reason
from cl_bench.data.tasks import Fraction, Scenario, task_of

Variant = Literal["ni", "nc", "nic", "nicv2_79", "nicv2_196", "nicv2_391"]

CATEGORIES = (
    *("plug_adapter", "mobile_phone", "scissor", "light_bulb", "can"),
    *("glass", "ball", "marker", "cup", "remote_control"),
)
OBJECTS = tuple(f"{category}{number}" for category in CATEGORIES for number in range(1, 6))
"""Five of each category; object o1 of the files is the first."""

KINDS: dict[str, tuple[Kind, ...]] = {"ni": ("domain",), "nc": ("class", "task")}
"""By variant; those of NIC are class-incremental: their classes come back."""

PICTURE = re.compile(r"s([0-9]{1,2})/o([0-9]{1,2})/[A-Za-z0-9_]+\.png", re.ASCII)
"""A path of paths.pkl: the session and the object, each from 1."""


class Part(NamedTuple):
    """The pictures of a task or of the test set.

    paths: below the folder of pictures. sessions: int64 (N,), from 1. objects: int64 (N,), from 0.
    """

    paths: list[str]
    sessions: Tensor
    objects: Tensor


def core50(
    seed: int,
    *,
    path: str,
    kind: Kind,
    variant: Variant,
    run: Annotated[int, Ge(0), Le(9)] = 0,
    size: Literal[128, 32] = 128,
    labels: Literal["objects", "categories"] = "objects",
    val_fraction: Fraction = 0.0,
    train_mask: TrainMask | None = None,
) -> Scenario:
    """An official variant and order: each of its batches is a task, and all tasks share one test set.

    ni: each task has all classes, in a new session. nc: each task has new classes. nic, nicv2_N: each task has few
    classes, which are new or come back in another session.

    Outputs are numbered in the order in which their classes first come. In `nc` a test image belongs to the task that
    has its object. In the other variants it belongs to no task.

    Args:
        path: the folder with `core50_128x128.zip`, or with its unzipped content, and with the tables LUP.pkl,
            labels.pkl and paths.pkl.
        variant: as above.
        run: the official order, 0 to 9.
        size: side of the pictures in pixels; those with 32 are in `core50_32x32.zip`.
        labels: the classes are the 50 `objects` or their 10 `categories`.

    Raises InputError for missing, damaged or wrong files, for a kind that a variant does not have, and for pictures
    that do not fit into memory.
    """
    kinds = KINDS.get(variant, ("class",))
    if kind not in kinds:
        raise InputError(f"scenario.kind={kind}: variant={variant} does not have this kind; set {' or '.join(kinds)}")
    if kind == "class" and train_mask == "current" and (variant != "nc" or labels == "categories"):
        raise InputError("scenario.train_mask=current: classes come back in later tasks; choose seen or all")
    folder = place(path, "scenario.path")
    *parts, test = ordered(folder, variant, run)
    classes = [part.objects // (5 if labels == "categories" else 1) for part in (*parts, test)]
    names = CATEGORIES if labels == "categories" else OBJECTS

    order = dict.fromkeys(label for found in classes[:-1] for label in found.unique().tolist())
    if strangers := set(classes[-1].tolist()) - set(order):
        raise InputError(f"{where(folder / 'LUP.pkl')} is damaged: no task has {names[min(strangers)]} of the test set")
    output_of = torch.empty(len(names), dtype=torch.int64)
    output_of[[*order]] = torch.arange(len(order))
    outputs = [output_of[found] for found in classes]
    of_tasks = tuple(tuple(found.unique().tolist()) for found in outputs[:-1])
    if kind == "task" and 1 in map(len, of_tasks):
        raise InputError(f"scenario.kind=task: task {1 + [*map(len, of_tasks)].index(1)} has one class; set kind=class")
    class_names = tuple(names[label] for label in order)
    problem = Problem(kind, (3, size, size), of_tasks, train_mask or "seen", class_names=class_names)

    check_memory([*parts, test], size)
    pictures = Pictures(folder, size)
    tasks = []
    for index, part in enumerate(parts):
        called = [class_names[output] for output in of_tasks[index]]
        if variant == "ni":
            called = [f"session {session}" for session in part.sessions.unique().tolist()]
        ids = torch.full(outputs[index].shape, index, dtype=torch.int16)
        train = Data(pictures.read(part.paths), outputs[index], ids)
        tasks.append(task_of(index, called, problem, train, val_fraction, seed))
    tests = Data(pictures.read(test.paths), outputs[-1], task_ids(parts, test, variant))
    return Scenario(problem, tasks, [tests])


def task_ids(parts: Sequence[Part], test: Part, variant: Variant) -> Tensor:
    """The task of each test image, int16 (N,)."""
    owner = torch.full((len(OBJECTS),), NO_TASK, dtype=torch.int16)
    if variant == "nc":
        for index, part in enumerate(parts):
            owner[part.objects] = index
    return owner[test.objects]


def ordered(folder: Path, variant: Variant, run: int) -> list[Part]:
    """The tasks of an official order, then its test set, from the three tables.

    Raises InputError for tables that are missing, damaged, or contradict each other.
    """
    found = {}
    for name, is_for in (("paths", "the paths of all pictures"), ("LUP", "the orders"), ("labels", "their labels")):
        file = folder / f"{name}.pkl"
        if not file.is_file():
            raise InputError(f"{where(file)} is missing; it has {is_for}, and the website of CORe50 has the file")
        found[name] = read_pickle("scenario=core50", file)
    paths = found["paths"]
    form = "it must be a list of paths such as s1/o1/C_01_01_000.png"
    if not isinstance(paths, list) or not paths:
        raise wrong(folder, "paths", form)
    places = []
    for path in paths:
        if not isinstance(path, str) or not (match := PICTURE.fullmatch(path)):
            raise wrong(folder, "paths", form)
        places.append([int(number) for number in match.groups()])
    if not all(0 < object <= len(OBJECTS) for _, object in places):
        raise wrong(folder, "paths", f"the objects of its paths must be o1 to o{len(OBJECTS)}")
    session, object = torch.tensor(places).view(-1, 2).T

    parts, label_of = [], torch.full((len(OBJECTS),), -1)
    numbers = batches_of(folder, "labels", found["labels"], variant, run)
    rows = batches_of(folder, "LUP", found["LUP"], variant, run)
    if [*map(len, rows)] != [*map(len, numbers)]:
        raise wrong(folder, "labels", f"its numbers of images differ from those of LUP.pkl for {variant}, run {run}")
    for row, number in zip(rows, numbers, strict=True):
        if int(row.max()) >= len(paths) or int(row.min()) < 0:
            raise wrong(folder, "LUP", f"it names picture {int(row.max())} of {len(paths)} in paths.pkl")
        unset = label_of[object[row] - 1] < 0
        label_of[object[row][unset] - 1] = number[unset]
        if not label_of[object[row] - 1].equal(number):
            raise wrong(folder, "labels", "two labels stand for one object of paths.pkl")
        parts.append(Part([paths[i] for i in row.tolist()], session[row], object[row] - 1))
    known = label_of[label_of >= 0]
    if len(known.unique()) < len(known):
        raise wrong(folder, "labels", "one label stands for two objects of paths.pkl")
    return parts


def batches_of(folder: Path, name: str, table: Any, variant: str, run: int) -> list[Tensor]:
    """The batches of an order in a table, int64 each; the last is the test set. Raises InputError for another form."""
    if not isinstance(table, dict) or variant not in table:
        raise wrong(folder, name, f"it must have an entry {variant}")
    runs = table[variant]
    try:
        batches = runs[run]
    except (LookupError, TypeError):
        raise wrong(folder, name, f"it has no run {run} of {variant}") from None
    if not isinstance(batches, list) or len(batches) < 2:
        raise wrong(folder, name, f"run {run} of {variant} must be a list of batches, the test set last")
    for batch in batches:
        if not isinstance(batch, list) or not batch or {*map(type, batch)} != {int}:
            raise wrong(folder, name, f"a batch of run {run} of {variant} must be a list of whole numbers")
        if max(map(abs, batch)) >= 2**31:
            raise wrong(folder, name, f"a number of run {run} of {variant} is too large")
    return [torch.tensor(batch) for batch in batches]


class Pictures:
    """The pictures of one size, in a zip file or in its unzipped folder.

    Raises InputError if both are missing.
    """

    def __init__(self, folder: Path, size: int) -> None:
        name, self.size = f"core50_{size}x{size}", size
        self.place, file = folder / name, folder / f"{name}.zip"
        self.open: Callable[[str], bytes] = lambda path: (self.place / path).read_bytes()
        if self.place.is_dir():
            return
        if not file.is_file():
            raise InputError(f"{where(file)} is missing; the website of CORe50 has it; zipped, or unzipped to {name}")
        self.place = file
        try:
            archive = ZipFile(file)
        except (OSError, BadZipFile) as error:
            raise InputError(spoiled(file, error)) from error
        inside = f"{name}/" if any(entry.startswith(f"{name}/") for entry in archive.namelist()) else ""
        self.open = lambda path: archive.read(inside + path)

    def read(self, paths: Sequence[str]) -> Tensor:
        """The pictures, uint8 (N, 3, size, size). Threads help, because decoding releases the interpreter lock."""
        images = np.empty((len(paths), self.size, self.size, 3), np.uint8)

        def decode(row: int) -> None:
            try:
                with Image.open(BytesIO(self.open(paths[row])), formats=["PNG"]) as picture:
                    if picture.size != (self.size, self.size):
                        raise ValueError(f"it has {picture.width}x{picture.height} pixels")
                    images[row] = np.asarray(picture.convert("RGB"))
            except (FileNotFoundError, KeyError):
                raise InputError(f"{where(self.place)} has no picture {paths[row]}; paths.pkl names it") from None
            except Exception as error:  # zipfile and Pillow raise many classes of errors for damaged files
                raise InputError(spoiled(self.place / paths[row], error)) from error

        with ThreadPoolExecutor() as pool:
            for _ in pool.map(decode, range(len(paths))):
                pass
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def check_memory(parts: Iterable[Part], size: int) -> None:
    """Raises InputError for pictures that do not fit into the free memory. size: side in pixels."""
    import psutil

    n = sum(len(part.paths) for part in parts)
    needs, free = n * 3 * size**2, psutil.virtual_memory().available
    if needs > free:
        way = "set scenario.size=32, or free memory" if size > 32 else "free memory"
        raise InputError(
            f"scenario.size={size}: {n:,} pictures take {needs / 2**30:.1f} GB of memory, and {free / 2**30:.1f} GB "
            f"are free; {way}"
        )


def where(file: Path) -> str:
    return f"scenario=core50: {file}"


def wrong(folder: Path, name: str, why: str) -> InputError:
    """The error for a wrong table."""
    return InputError(f"{where(folder / f'{name}.pkl')} is damaged or another file: {why}")


def spoiled(file: Path, error: Exception) -> str:
    return f"{where(file)} is damaged or has another format; delete or replace it ({reason(error)})"
