"""Sets in the format of Hugging Face's `datasets`, only from this machine: no downloads, and no code of a set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from cl_bench.config import InputError, Share, Side
from cl_bench.config.content import natural
from cl_bench.config.errors import nearest
from cl_bench.config.names import place
from cl_bench.data.cache import OnDiskKey
from cl_bench.data.classes import Classes
from cl_bench.data.dataset import TEST_FRACTION, Dataset, Deviations, Means, seen_as, unlike
from cl_bench.data.listed import Listed, read_listed
from cl_bench.data.pictures import Background
from cl_bench.data.reading import reason


def huggingface(
    data_dir: Path,
    *,
    path: str | None = None,
    name: str | None = None,
    config: str | None = None,
    train: str = "train",
    test: str | None = None,
    val: str | None = None,
    image: str | None = None,
    label: str | None = None,
    test_fraction: Share = TEST_FRACTION,
    size: Side,
    grayscale: bool | None = None,
    background: Background = "white",
    classes: Classes | None = None,
    augment: bool = False,
    mean: Means | None = None,
    std: Deviations | None = None,
    on_disk: OnDiskKey = "auto",
) -> Dataset:
    """The splits of a folder from `save_to_disk` (path), or of a set in the local cache (name, config).

    image, label: the columns; not needed if there is only one of each kind. Names and order of classes come from the
    set. Labels that are plain texts or numbers have natural order.
    Raises InputError for anything that is missing, and for a set that needs a download or its own code.
    """
    splits = stored(path, name, config)
    source = str(path or name)
    where = f"dataset=huggingface: {source}"
    parts = {"train": train, "test": test or ("test" if "test" in splits else None), "val": val}
    used = {part: split for part, split in parts.items() if split is not None}
    for earlier, (part, split) in enumerate(used.items()):
        if split not in splits:
            raise InputError(f"dataset.{part}={split}: {source} has no such split{nearest(split, splits)}")
        if same := [other for other in [*used][:earlier] if used[other] == split]:
            raise InputError(f"dataset.{part}={split}: is also dataset.{same[0]}; choose another split")
    import datasets

    image, label = columns_of(splits[train], where, image, label)
    files: list[Row] = []
    held_in: list[Path] = []
    labels: list[Any] = []
    of_part: list[str] = []
    kind = splits[train].features[label]
    for part, split in used.items():
        rows = splits[split]
        if rows.features.get(image) != splits[train].features[image] or rows.features.get(label) != kind:
            raise InputError(f"{where}: the split {split} has other columns than {train}, or other classes in {label}")
        pictures = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        files += [Row(pictures, image, row, split) for row in range(len(rows))]
        held_in += files_of(pictures, image)
        labels += rows.select_columns([label])[:][label]
        of_part += [part] * len(rows)
    numbers, names = numbered(labels, kind, where)
    listed = Listed(files, numbers, np.array(of_part), names)
    read = read_listed(
        "huggingface",
        source,
        listed,
        size=size,
        grayscale=grayscale,
        background=background,
        test_fraction=test_fraction,
        classes=classes,
        on_disk=on_disk,
        data_dir=data_dir,
        held_in=held_in,
    )
    return seen_as(read, augment, mean, std)


@dataclass(frozen=True)
class Row:
    """The picture in a row of a split, as bytes.

    Its text is its name in messages, and is different for all pictures in the same files, see `large.pictures_of`.
    """

    rows: Any
    column: str
    row: int
    split: str

    def __str__(self) -> str:
        return f"{self.column} in row {self.row} of {self.split}"

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        found = self.rows[self.row][self.column]
        if not found or (found["bytes"] is None and not found["path"]):
            raise ValueError("there is no picture")
        return BytesIO(found["bytes"]) if found["bytes"] is not None else Path(found["path"]).open(mode)


def files_of(rows: Any, column: str) -> list[Path]:
    """The files with these rows, and the picture files that the rows name."""
    held_in = [Path(file["filename"]) for file in rows.cache_files]
    for part in rows.data.column(column).chunks:
        held_in += [
            Path(path) for path in part.filter(part.field("bytes").is_null()).field("path").drop_null().to_pylist()
        ]
    return held_in


def stored(path: str | None, name: str | None, config: str | None) -> Mapping[str, Any]:
    """The splits of a set on this machine, by name. They are read as tables, and no code of the set runs.

    Raises InputError if there are none.
    """
    if (path is None) == (name is None):
        raise InputError(
            "dataset.path: give a folder of save_to_disk (path) or a data set of the local cache (name), not both"
        )
    if find_spec("datasets") is None:
        raise InputError("dataset=huggingface: needs its package; pip install 'cl_bench[huggingface]'")
    if path is None:
        return cached(str(name), config)
    where, folder = f"dataset=huggingface: {path}", place(path, "dataset.path")
    if config is not None:
        raise InputError(
            f"dataset.config={config}: works only with dataset.name, and dataset.path is a folder; leave it null"
        )
    if not (folder / "dataset_dict.json").is_file() and not (folder / "dataset_info.json").is_file():
        found = "is not a folder that save_to_disk made" if folder.exists() else "is missing"
        raise InputError(f"{where} {found}; only such folders are read, and no code is run")
    import datasets  # seconds

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # pyarrow and json: many classes
        raise InputError(f"{where} is damaged; save it again ({reason(error)})") from error
    if isinstance(found, datasets.DatasetDict):
        return {str(split): rows for split, rows in found.items()}
    return {"train": found}


def cached(name: str, config: str | None) -> Mapping[str, Any]:
    """The newest copy of a set in the local cache. Raises InputError if there is none, or if the choice is unclear."""
    import datasets
    from datasets.config import HF_DATASETS_CACHE
    from datasets.naming import camelcase_to_snakecase

    where, below = f"dataset=huggingface: {name}", Path(HF_DATASETS_CACHE)
    owner, _, last = name.rpartition("/")
    if not last or {".", "..", "~"} & {owner, last} or any(mark in owner for mark in "/\\"):
        raise InputError(f"dataset.name={name}: is not the name of a data set on the hub, such as ylecun/mnist")
    of_set = below / (f"{owner}___" * bool(owner) + camelcase_to_snakecase(last))
    copies = [info.parent for info in of_set.glob("*/*/*/dataset_info.json")]
    configs = {copy.parents[1].name for copy in copies}
    if not copies:
        known = sorted({entry.name.replace("___", "/") for entry in below.glob("*") if entry.is_dir()})
        near = nearest(name, known) if known else ""
        way = f"once on a machine with a network: datasets.load_dataset('{name}')"
        raise InputError(f"{where} isn't in the cache {below}, and nothing is downloaded; {way}{near}")
    if config is None and len(configs) > 1:
        raise InputError(f"dataset.config=null: {name} has {', '.join(sorted(configs))} in the cache; choose one")
    if config is not None and config not in configs:
        raise InputError(f"dataset.config={config}: {name} has no such configuration{nearest(config, configs)}")
    folder = max((copy for copy in copies if config in (None, copy.parents[1].name)), key=lambda at: at.stat().st_mtime)
    try:
        splits = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))["splits"]
        shards = {
            split: sorted(
                file for file in folder.iterdir() if re.search(rf"-{re.escape(split)}(-\d+-of-\d+)?\.arrow$", file.name)
            )
            for split in splits
        }
        return {
            split: datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files])
            for split, files in shards.items()
        }
    except Exception as error:  # pyarrow and json: many classes
        raise InputError(f"{where}: {folder} is damaged; delete it and load it again ({reason(error)})") from error


def columns_of(rows: Any, where: str, image: str | None, label: str | None) -> tuple[str, str]:
    """The columns of pictures and of classes. Raises InputError if the choice is unclear, or for wrong content."""
    import datasets

    features = rows.features
    for key, column in (("image", image), ("label", label)):
        if column is not None and column not in features:
            raise InputError(f"dataset.{key}={column}: {where} has no such column{nearest(column, features)}")
    pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    classes = classes or [name for name in ("label", "labels") if name in features]
    found = []
    for key, column, known in (("image", image, pictures), ("label", label, classes)):
        if column is None and len(known) != 1:
            has = f"has {', '.join(known) or 'none'} of the columns {', '.join(features)}"
            raise InputError(f"{where} {has} as {key}; set dataset.{key}=COLUMN")
        found.append(known[0] if column is None else column)
    if found[0] not in pictures:
        raise InputError(f"dataset.image={found[0]}: {where} has {features[found[0]]} in this column, not pictures")
    kind = features[found[1]]
    plain = isinstance(kind, datasets.Value) and re.fullmatch(r"u?int\d+|bool|(large_)?string", kind.dtype)
    if not plain and not isinstance(kind, datasets.ClassLabel):
        must = "labels must be classes, texts or whole numbers"
        raise InputError(f"dataset.label={found[1]}: {where} has {kind} in this column; {must}")
    return found[0], found[1]


def numbered(labels: list[Any], kind: Any, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels, numbered from 0, and the names of the classes.

    Raises InputError for a picture without a label.
    """
    known = getattr(kind, "names", None)
    if without := [row for row, label in enumerate(labels) if label is None or (known and label < 0)]:
        raise InputError(f"{where}: {len(without)} pictures have no label, such as number {without[0]}")
    there = sorted(set(labels)) if known else sorted(set(labels), key=lambda label: natural(str(label)))
    number = {label: place for place, label in enumerate(there)}
    names = unlike([known[label] for label in there]) if known else tuple(map(str, there))
    return np.array([number[label] for label in labels]), names
