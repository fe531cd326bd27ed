"""Any of torchvision's sets for image classification, read by torchvision itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps

from cl_bench.config import InputError, Share, Side
from cl_bench.config.content import digest_of, files_below
from cl_bench.config.errors import nearest
from cl_bench.data.cache import OnDiskKey, cache_of, in_blocks, mapped, named, stays_on_disk
from cl_bench.data.classes import Classes
from cl_bench.data.dataset import (
    TEST_FRACTION,
    Dataset,
    Deviations,
    Means,
    check_fraction,
    dataset_of,
    evenly,
    seen_as,
    some_classes,
    unlike,
)
from cl_bench.data.on_disk import OnDisk, in_memory
from cl_bench.data.reading import Arrays, reason

Split = bool | str


class Splits(NamedTuple):
    """The splits of a set of torchvision.

    parameter: the argument of its class that chooses the split; None: the set has no splits. names: splits with known
    labels, first for training, second for testing. photographs: whether its images differ in size. whole: whether
    torchvision loads all images into memory.
    """

    parameter: str | None
    names: tuple[Split, ...] = ()
    photographs: bool = True
    whole: bool = False

    @property
    def typed(self) -> list[str]:
        """The names, as they are typed in settings."""
        return [TRUTH.get(name, str(name)) for name in self.names]


TRUTH: dict[Split, str] = {True: "train", False: "test"}
EITHER = Splits("train", (True, False), photographs=False, whole=True)
SETS: dict[str, Splits] = {
    **dict.fromkeys(("MNIST", "FashionMNIST", "KMNIST", "EMNIST", "CIFAR10", "CIFAR100", "USPS"), EITHER),
    "QMNIST": Splits("what", ("train", "test", "test10k", "test50k", "nist"), photographs=False, whole=True),
    "SVHN": Splits("split", ("train", "test", "extra"), photographs=False, whole=True),
    "STL10": Splits("split", ("train", "test"), photographs=False, whole=True),
    "FER2013": Splits("split", ("train", "test"), photographs=False, whole=True),
    "PCAM": Splits("split", ("train", "test", "val"), photographs=False),
    "SEMEION": Splits(None, photographs=False, whole=True),
    **dict.fromkeys(("Food101", "GTSRB", "StanfordCars"), Splits("split", ("train", "test"))),
    **dict.fromkeys(("DTD", "Flowers102", "RenderedSST2"), Splits("split", ("train", "test", "val"))),
    **dict.fromkeys(("CLEVRClassification", "ImageNet", "Imagenette"), Splits("split", ("train", "val"))),
    "Country211": Splits("split", ("train", "test", "valid")),
    "FGVCAircraft": Splits("split", ("train", "test", "val", "trainval")),
    "OxfordIIITPet": Splits("split", ("trainval", "test")),
    "Places365": Splits("split", ("train-standard", "val", "train-challenge")),
    "INaturalist": Splits("version", ("2021_train_mini", "2021_valid", "2021_train")),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "Omniglot", "SUN397"), Splits(None)),
}
DEFAULTS: dict[str, dict[str, Any]] = {"EMNIST": {"split": "balanced"}}
OURS = ("self", "root", "transform", "target_transform", "transforms", "download", "loader", "kwargs")
"""Arguments of these classes that users must not set."""


def torchvision_set(
    data_dir: Path,
    *,
    name: str,
    train: str | None = None,
    test: str | None = None,
    val: str | None = None,
    options: dict[str, bool | int | str] | None = None,
    test_fraction: Share = TEST_FRACTION,
    size: Side | None = None,
    classes: Classes | None = None,
    augment: bool = False,
    mean: Means | None = None,
    std: Deviations | None = None,
    on_disk: OnDiskKey = "auto",
) -> Dataset:
    """The images and labels of torchvision.datasets.NAME, as torchvision reads them.

    train, test, val: names of splits, as in torchvision. options: other arguments of its class.
    size: images of one size are resized to fit into a square; of photographs, which differ in size, the center square
    is resized, so they need a size.
    Raises InputError for another set, split or option, and for files that are missing or damaged.
    """
    if name not in SETS:
        raise InputError(no_such_set(name))
    splits, where = SETS[name], f"dataset=torchvision: {name}"
    if splits.whole and on_disk is True:
        raise InputError(f"dataset.on_disk=true: torchvision has all images of {name} in memory; set auto, or false")
    if splits.photographs and size is None:
        raise InputError(f"dataset.size=null: the pictures of {name} differ in size; set one, e.g. dataset.size=64")
    extra = DEFAULTS.get(name, {}) | checked_options(name, splits, options)
    parts = chosen(name, splits, {"train": train, "test": test, "val": val})
    arrays: dict[str, Any] = {}
    names: list[str] = []
    for part, split in parts.items():
        given = extra if splits.parameter is None else extra | {splits.parameter: split}
        images, labels, names = read(name, data_dir, given, size if splits.photographs else None, on_disk)
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    if splits.parameter is not None:
        check_fraction(test_fraction)
    else:
        x, y = arrays["x_train"], arrays["y_train"]
        if len(alone := np.flatnonzero(np.bincount(y) == 1)):
            raise InputError(
                f"{where}: class {alone[0]} has one image; at least one for training and one for testing are needed"
            )
        is_test = evenly(y, test_fraction)
        arrays = {"x_train": x[~is_test], "y_train": y[~is_test], "x_test": x[is_test], "y_test": y[is_test]}
    there = np.unique(arrays["y_train"])
    called = [names[label] if label < len(names) else str(label) for label in there.tolist()]
    made = Arrays(**arrays, class_names=np.array(unlike(called)))
    found = dataset_of("torchvision", name, made, None if splits.photographs else size)
    return seen_as(some_classes(found, classes), augment, mean, std)


def no_such_set(name: str) -> str:
    from torchvision import datasets

    if name in datasets.__all__:
        why = "is not a torchvision data set with one class per image and the same classes in all splits"
        return f"dataset.name={name}: {why}; choose from {', '.join(sorted(SETS))}"
    return f"dataset.name={name}: torchvision has no such data set{nearest(name, SETS)}"


def chosen(name: str, splits: Splits, given: Mapping[str, str | None]) -> dict[str, Split]:
    """The split of each part, as an argument of the set's class. Raises InputError for unknown splits."""
    if splits.parameter is None:
        for part, split in given.items():
            if split is not None:
                raise InputError(f"dataset.{part}={split}: {name} has no splits; dataset.test_fraction is set aside")
        return {"train": ""}
    known = dict(zip(splits.typed, splits.names, strict=True))
    found = {}
    for part, split in {"train": splits.typed[0], "test": splits.typed[1], "val": None}.items():
        split = given[part] or split
        if split is None:
            continue
        if split not in known:
            raise InputError(f"dataset.{part}={split}: {name} has no such split{nearest(split, known)}")
        if same := [other for other, taken in found.items() if taken == known[split]]:
            raise InputError(f"dataset.{part}={split}: is also dataset.{same[0]}; choose another split")
        found[part] = known[split]
    return found


def checked_options(name: str, splits: Splits, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The other arguments of a set's class. Raises InputError for arguments that it does not have."""
    known = [key for key in parameters(name) if key not in (*OURS, splits.parameter)]
    for key in options or {}:
        if key == splits.parameter or (key in ("train", "split") and key not in known):
            raise InputError(
                f"dataset.options: {key} chooses the split of {name}; set dataset.train and dataset.test instead"
            )
        if key not in known:
            near = nearest(key, known) if known else "; it has no arguments"
            raise InputError(f"dataset.options: {name} has no argument {key}{near}")
    return dict(options or {})


def parameters(name: str) -> list[str]:
    """The arguments of a set's class, with those of the base class to which it passes them."""
    from torchvision import datasets

    found: list[str] = []
    for owner in getattr(datasets, name).__mro__:
        own = [*inspect.signature(owner.__init__).parameters]
        found += own
        if "kwargs" not in own:
            break
    return found


def read(
    name: str, data_dir: Path, given: Mapping[str, Any], size: int | None, on_disk: OnDiskKey
) -> tuple[np.ndarray | OnDisk, np.ndarray, list[str]]:
    """The images, labels and class names of a split.

    size: of the center square of each image; None: the images' own size. on_disk: see `cache.stays_on_disk`.
    """
    import torchvision
    from torchvision import datasets

    source: Callable[..., Any] = getattr(datasets, name)
    where, said = f"dataset=torchvision: {name}", ", ".join(f"{key}={value}" for key, value in given.items() if value)

    def as_array(picture: Image.Image) -> np.ndarray:
        if size is None:
            return np.asarray(picture)
        return np.asarray(ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BILINEAR))

    def fetched() -> Any:
        try:
            return source(data_dir, **given, transform=as_array)  # some sets raise an error if files exist already
        except (OSError, RuntimeError):
            if "download" not in parameters(name) or name in ("ImageNet", "StanfordCars"):  # these have no download
                raise
            return source(data_dir, **given, transform=as_array, download=True)

    try:
        images = fetched()
    except (OSError, RuntimeError, ImportError) as error:
        why = f"cannot be read or downloaded; put what torchvision.datasets.{name} reads into {data_dir}"
        raise InputError(f"{where} {why} ({reason(error)})") from error
    except Exception as error:  # pandas, scipy and tarfile raise errors of any class for a damaged file
        if isinstance(error, ValueError) and re.search("argument|Parameter", str(error)):  # torchvision's of these
            raise InputError(f"dataset.options: {name} ({said}): {' '.join(str(error).split())}") from error
        why = f"its files in {data_dir} are damaged; delete or replace them"
        raise InputError(f"{where}: {why} ({reason(error)})") from error

    def sample(row: int) -> tuple[np.ndarray, int]:
        try:
            picture, label = images[row]
            return picture, int(label)
        except MemoryError:
            raise
        except Exception as error:
            raise InputError(f"{where}: image {row} ({said}) is damaged, or has no label ({reason(error)})") from error

    if not len(images):
        raise InputError(f"{where}: there is no image in it ({said})")
    if SETS[name] is EITHER:  # all images are in memory already
        return np.asarray(images.data), np.asarray(images.targets, np.int64), names_of(images)
    first, _ = sample(0)
    labels = np.full(len(images), -1)

    def some(rows: range) -> np.ndarray:
        """The images of these rows. Writes their labels into `labels`."""
        pixels = np.empty((len(rows), *first.shape), np.uint8)

        def put(row: int) -> None:
            pixels[row - rows.start], labels[row] = sample(row)

        if size is None:  # for small images threads would cost more time than they save
            for row in rows:
                put(row)
        else:
            with ThreadPoolExecutor() as pool:
                for _ in pool.map(put, rows):
                    pass
        return pixels

    if SETS[name].whole or not stays_on_disk(on_disk, len(images) * first.size):
        return some(range(len(images))), labels, names_of(images)

    def blocks() -> Iterator[np.ndarray]:
        for rows in in_blocks(len(images), first.shape):
            yield np.moveaxis(some(rows), -1, 1)

    def labels_as_images() -> Iterator[np.ndarray]:
        if (labels < 0).any():  # the images were in the cache already
            for _ in blocks():
                pass
        yield labels.view(np.uint8).reshape(-1, 1, 1, labels.itemsize)

    cache = cache_of(data_dir)
    made_of = (name, content_of(images, data_dir), size, torchvision.__version__, PIL.__version__)
    pixels = mapped(cache, named(*made_of, "images"), blocks)
    known = in_memory(mapped(cache, named(*made_of, "labels"), labels_as_images), where)
    return pixels, known.numpy().reshape(-1).view(np.int64), names_of(images)


def content_of(images: Any, data_dir: Path) -> str:
    """A digest of the content of a set of torchvision: the files that it lists, or all files in its folder, and all its
    other data, such as labels, without the location of the files."""
    about = {key: value for key, value in vars(images).items() if not callable(value)}
    lists = [value for value in about.values() if isinstance(value, list) and len(value) == len(images)]
    for entries in lists:
        names = [entry[0] if isinstance(entry, tuple) else entry for entry in entries]
        if all(isinstance(name, str | Path) for name in names) and Path(names[0]).is_file():
            files = [Path(name) for name in names]
            break
    else:
        own = Path(images.root)
        files = files_below(images._base_folder if own == data_dir else own)
    found = digest_of(files, str(cache_of(data_dir)))
    if found is None:
        raise InputError(f"dataset=torchvision: {type(images).__name__}: a file below {data_dir} can't be read")
    return named(found, repr(about).replace(str(data_dir), ""))


def names_of(images: Any) -> list[str]:
    """The names of the classes of a set of torchvision, in the order of their numbers; [] if it has none."""
    keys = ("classes", "categories", "all_categories")
    found = next((getattr(images, key) for key in keys if hasattr(images, key)), ())
    return [", ".join(name) if isinstance(name, tuple | list) else str(name) for name in found]
