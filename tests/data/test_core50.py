"""CORe50 in the official layout: which pictures come when, with which labels; what is damaged or foreign is named."""

from __future__ import annotations

import builtins
import os
import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import psutil
import pytest
import torch
from core50_on_disk import FRAMES, OBJECTS, TEST, VARIANTS, make, path_of, picture
from PIL import Image

from cl_bench.config import InputError
from cl_bench.data.batches import NO_TASK
from cl_bench.data.core50 import CATEGORIES, core50
from cl_bench.data.core50 import OBJECTS as NAMES
from cl_bench.data.tasks import Scenario
from cl_bench.evaluation.scores import Score

KINDS = {"ni": "domain", "nc": "class"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("data"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return make(tmp_path)


def scenario(folder: Path, variant: str = "nc", **settings: Any) -> Scenario:
    settings = {"kind": KINDS.get(variant, "class"), "size": 32, "seed": 0, **settings}
    return core50(path=str(folder), variant=variant, **settings)  # type: ignore[arg-type]


def test_the_official_names() -> None:
    assert len(NAMES) == 50
    assert (NAMES[0], NAMES[5], NAMES[49]) == ("plug_adapter1", "mobile_phone1", "remote_control5")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("run", [0, 1])
def test_each_batch_has_the_pictures_of_the_official_order(folder: Path, variant: str, run: int) -> None:
    found = scenario(folder, variant, run=run)
    batches = VARIANTS[variant][:: -1 if run else 1]
    assert len(found.tasks) == len(batches)
    names = found.problem.class_names
    for task, batch in zip(found.tasks, batches, strict=True):
        wanted = [(*which, frame) for which in batch for frame in range(FRAMES)]
        assert len(task.train) == len(wanted)
        assert task.train.images.is_contiguous()
        for image, label, (session, object, frame) in zip(task.train.images, task.train.labels, wanted, strict=True):
            assert (image.permute(1, 2, 0).numpy() == picture(session, object, frame, 32)).all()
            assert names[label] == NAMES[object - 1]
        assert set(task.train.task_ids.tolist()) == {task.index}
        classes = sorted({names.index(NAMES[object - 1]) for _, object in batch})
        assert found.problem.outputs[task.index] == tuple(classes)
        assert task.names == (
            (f"session {batch[0][0]}",) if variant == "ni" else tuple(names[label] for label in classes)
        )
    (test,) = found.tests
    assert found.shared_test
    assert len(test) == len(TEST) * len(OBJECTS) * FRAMES
    assert [names[label] for label in test.labels[::FRAMES]] == 2 * [NAMES[object - 1] for object in OBJECTS]


def test_outputs_are_numbered_as_their_classes_come(folder: Path) -> None:
    problem = scenario(folder, "nc").problem
    assert problem.class_names[:2] == ("plug_adapter1", "mobile_phone2")
    assert problem.outputs == ((0, 1), (2, 3), (4, 5))
    assert problem.image_shape == (3, 32, 32)


def test_a_test_image_is_of_the_task_that_has_its_object_where_objects_come_once(folder: Path) -> None:
    test = scenario(folder, "nc").tests[0]
    assert (test.task_ids == test.labels // 2).all()
    for variant in ("ni", "nic"):
        assert set(scenario(folder, variant).tests[0].task_ids.tolist()) == {NO_TASK}


def test_classes_come_back_and_what_counts_as_seen_is_what_came(folder: Path) -> None:
    problem = scenario(folder, "nicv2_391").problem
    assert problem.outputs[:4] == ((0, 1), (2, 3), (1,), (4, 5))
    assert [problem.seen(after).tolist() for after in (0, 1, 2)] == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert problem.task_of_output.tolist() == [0, 0, 1, 1, 3, 3]


@pytest.mark.parametrize("variant", ["ni", "nc", "nic"])
def test_categories_are_five_objects_each(folder: Path, variant: str) -> None:
    found, objects = scenario(folder, variant, labels="categories"), scenario(folder, variant)
    assert sorted(found.problem.class_names) == ["mobile_phone", "plug_adapter", "remote_control", "scissor"]
    parts, same_parts = ([*(task.train for task in one.tasks), *one.tests] for one in (found, objects))
    for data, of_objects in zip(parts, same_parts, strict=True):
        assert (data.images == of_objects.images).all()
        names = [objects.problem.class_names[label][:-1] for label in of_objects.labels]
        assert [found.problem.class_names[label] for label in data.labels] == names
    assert set(found.problem.class_names) <= set(CATEGORIES)


def test_zip_and_folder_are_the_same(folder: Path, tmp_path: Path) -> None:
    unzipped = scenario(make(tmp_path / "unzipped", zipped=False), "nc")
    with ZipFile(folder / "core50_32x32.zip") as archive:
        bare = make(tmp_path / "bare")
        with ZipFile(bare / "core50_32x32.zip", "w") as without_folder:
            for name in archive.namelist():
                without_folder.writestr(name.removeprefix("core50_32x32/"), archive.read(name))
    for other in (unzipped, scenario(bare, "nc")):
        for one, another in zip(scenario(folder, "nc").tasks, other.tasks, strict=True):
            assert one.train.images.equal(another.train.images)


def test_pictures_of_128_pixels(tmp_path: Path) -> None:
    found = scenario(make(tmp_path, size=128), "ni", size=128)
    assert found.tasks[0].train.images.shape == (len(OBJECTS) * FRAMES, 3, 128, 128)
    with pytest.raises(InputError, match=r"core50_32x32\.zip is missing"):
        scenario(tmp_path / "core50", "ni", size=32)


def test_only_pictures_of_the_run_are_read(own: Path) -> None:
    """Another variant's pictures may be missing."""
    lookup = pickle.loads((own / "LUP.pkl").read_bytes())
    lookup["nc"][0] = [batch[:FRAMES] for batch in lookup["nc"][0]]
    labels = pickle.loads((own / "labels.pkl").read_bytes())
    labels["nc"][0] = [batch[:FRAMES] for batch in labels["nc"][0]]
    lookup["nc"][0][-1], labels["nc"][0][-1] = lookup["nc"][0][0], labels["nc"][0][0]
    (own / "LUP.pkl").write_bytes(pickle.dumps(lookup))
    (own / "labels.pkl").write_bytes(pickle.dumps(labels))
    with ZipFile(own / "core50_32x32.zip", "w") as archive:
        for object in (7, 2, 11):  # the first of each task
            for frame in range(FRAMES):
                content = BytesIO()
                Image.fromarray(picture(1, object, frame, 32)).save(content, "png")
                archive.writestr(path_of(1, object, frame), content.getvalue())
    assert [len(task.train) for task in scenario(own, "nc").tasks] == [FRAMES] * 3
    with pytest.raises(InputError, match="has no picture s1/o1/"):
        scenario(own, "ni")


def test_validation_images_are_set_apart(folder: Path) -> None:
    for task in scenario(folder, "nc", val_fraction=0.25).tasks:
        assert (len(task.val), len(task.train)) == (6, 18)
        assert not ({*map(bytes, task.val.images.numpy())} & {*map(bytes, task.train.images.numpy())})


# ------------------------------------------------------------------------------------------- what is refused


class Evil:
    """A pickle that would leave a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("table", ["LUP", "labels", "paths"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_of_a_foreign_pickle_is_run(own: Path, table: str, protocol: int, tmp_path: Path) -> None:
    file = own / f"{table}.pkl"
    content = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps([content, Evil(tmp_path / "ran")], protocol=protocol))
    with pytest.raises(InputError, match=rf"{table}\.pkl holds posix\.mkdir; only lists, strings") as error:
        scenario(own)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("thing", "called"),
    [
        (np.arange(3), r"numpy\S*\._reconstruct"),
        (np.int64(3), r"numpy\S*\.scalar"),
        ({1, 2}, r"(__builtin__|builtins)\.set"),
        (print, r"(__builtin__|builtins)\.print"),
        (Path("a"), r"pathlib\S*\.PosixPath"),
        (builtins.eval, r"(__builtin__|builtins)\.eval"),
    ],
    ids=["array", "number of numpy", "set", "print", "path", "eval"],
)
def test_what_is_no_list_string_or_number_is_named(own: Path, thing: Any, called: str) -> None:
    (own / "LUP.pkl").write_bytes(pickle.dumps({"nc": thing}, protocol=2))
    with pytest.raises(InputError, match=rf"LUP\.pkl holds {called};"):
        scenario(own)


def changed(own: Path, table: str, change: Callable[[Any], Any]) -> None:
    file = own / f"{table}.pkl"
    content = pickle.loads(file.read_bytes())
    other = change(content)
    file.write_bytes(pickle.dumps(content if other is None else other))


def put(*path: Any, value: Any) -> Callable[[Any], Any]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


WRONG: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "no variant": ("LUP", lambda content: {"ni": content["ni"]}, "it must have an entry nc"),
    "a list": ("LUP", lambda content: [content], "it must have an entry nc"),
    "no run": ("LUP", put("nc", value=[]), "it has no run 0 of nc"),
    "no batches": ("labels", put("nc", 0, value=7), "must be a list of batches"),
    "one batch": ("LUP", put("nc", 0, value=[[1]]), "must be a list of batches"),
    "an empty batch": ("LUP", put("nc", 0, 1, value=[]), "must be a list of whole numbers"),
    "halves": ("LUP", put("nc", 0, 1, 0, value=0.5), "must be a list of whole numbers"),
    "truth": ("LUP", put("nc", 0, 1, 0, value=True), "must be a list of whole numbers"),
    "below": ("LUP", put("nc", 0, 1, 0, value=-1), "it names picture"),
    "beyond": ("LUP", put("nc", 0, 1, 0, value=10**6), "it names picture 1000000 of 120 in paths.pkl"),
    "huge": ("LUP", put("nc", 0, 1, 0, value=10**30), "too large"),
    "another length": ("labels", put("nc", 0, 1, value=[1, 2]), "numbers of images differ from those of LUP.pkl"),
    "another label": ("labels", put("nc", 0, 1, 0, value=5), "two labels stand for one object"),
    "one label": ("labels", put("nc", 0, value=[[0] * 24] * 3 + [[0] * 48]), "one label stands for two objects"),
    "no list of paths": ("paths", lambda content: dict(enumerate(content)), "it must be a list of paths"),
    "out of the folder": ("paths", put(0, value="../../../etc/passwd"), "it must be a list of paths"),
    "an absolute path": ("paths", put(0, value="/s1/o1/C_01_01_000.png"), "it must be a list of paths"),
    "another object": ("paths", put(0, value="s1/o51/C_01_51_000.png"), "must be o1 to o50"),
    "no paths": ("paths", lambda content: [], "it must be a list of paths"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_table_of_another_form_is_refused(own: Path, name: str) -> None:
    table, change, told = WRONG[name]
    changed(own, table, change)
    with pytest.raises(InputError, match=rf"^scenario=core50: .*{table}\.pkl is damaged or another file: ") as error:
        scenario(own)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["LUP.pkl", "labels.pkl", "paths.pkl", "core50_32x32.zip"])
def test_a_file_that_is_missing_or_damaged_is_named_with_its_place(own: Path, name: str) -> None:
    content = (own / name).read_bytes()
    (own / name).unlink()
    with pytest.raises(InputError, match=rf"^scenario=core50: {own / name} is missing; .*the website of CORe50"):
        scenario(own)
    for damage in (b"", b"no file of ours", content[: len(content) // 2]):
        (own / name).write_bytes(damage)
        with pytest.raises(InputError, match=rf"^scenario=core50: {own}.* is damaged or (no|has an)[^\n]*$"):
            scenario(own)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_picture_is_named(tmp_path: Path, content: bytes) -> None:
    own = make(tmp_path, zipped=False)
    file = own / "core50_32x32" / path_of(1, 7, 0)
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"^scenario=core50: {file} is damaged[^\n]*$"):
        scenario(own)
    file.unlink()
    with pytest.raises(InputError, match=r"core50_32x32 has no picture s1/o7/C_01_07_000\.png; paths\.pkl names it"):
        scenario(own)


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    own = make(tmp_path, zipped=False, size=128)
    (own / "core50_128x128").rename(own / "core50_32x32")
    with pytest.raises(InputError, match="it has 128x128 pixels"):
        scenario(own)


def test_pictures_that_do_not_fit_into_memory_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = psutil.virtual_memory()._replace(available=10_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(InputError, match=r"^scenario.size=32: 120 pictures take 0\.0 GB of memory, and 0\.0 GB are"):
        scenario(folder)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"variant": "ni", "kind": "class"}, "scenario.kind=class: variant=ni does not have this kind; set domain"),
        ({"variant": "nc", "kind": "domain"}, "variant=nc does not have this kind; set class or task"),
        ({"variant": "nicv2_79", "kind": "task"}, "variant=nicv2_79 does not have this kind; set class"),
        ({"variant": "nic", "train_mask": "current"}, "scenario.train_mask=current: classes come back"),
        ({"variant": "nc", "labels": "categories", "train_mask": "current"}, "scenario.train_mask=current"),
        ({"run": 2}, "it has no run 2 of nc"),
    ],
)
def test_what_a_variant_has_not_is_refused(folder: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as error:
        scenario(folder, **settings)
    assert told in str(error.value)


def test_the_task_is_given_to_each_test_image(folder: Path) -> None:
    """In task-incremental learning each image is answered as one of its task, whatever lies beside it in a batch."""

    class Method(torch.nn.Module):
        """Says the task it is given, and right or wrong by the image: every frame but the first is right."""

        def __init__(self, test: Any) -> None:
            super().__init__()
            self.label = dict(zip(map(bytes, test.images.numpy()), test.labels.tolist(), strict=True))

        def forward(self, x: torch.Tensor, index: int | None = None) -> torch.Tensor:
            assert index is not None
            logits = torch.zeros(len(x), 6)
            for row, image in enumerate((x * 255).round().byte()):
                label = self.label[bytes(image.numpy())]
                assert label // 2 == index
                right = int(image[0, 0, 0]) > 0
                logits[row, label if right else label ^ 1] = 1
            return logits

    found = scenario(folder, "nc", kind="task")
    found.tests[0] = found.tests[0][torch.randperm(len(found.tests[0]))]
    score = Score(found)
    score.measure(Method(found.tests[0]), after=0)  # type: ignore[arg-type]
    assert score.results().R[0] == [1 - 1 / FRAMES]
    assert score.results().R_task_masked is None
