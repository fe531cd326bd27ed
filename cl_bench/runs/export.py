"""A trained model as a graph of torch (`torch.export`): its users need neither cl_bench nor the settings."""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import redirect_stderr
from io import BytesIO, StringIO
from pathlib import Path

import torch
from torch import Tensor, nn

from cl_bench import files
from cl_bench.config import InputError
from cl_bench.data.problem import masked
from cl_bench.methods.base import frozen
from cl_bench.runs.models import labels_of
from cl_bench.runs.trained import Trained
from cl_bench.seeding import usual_torch

CLOSE = 1e-5  # what two ways to compute the same logits may differ by, relative to the largest


class Answers(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> logits (B, n_outputs) of a trained model, with the lowest value for outputs that
    may not answer.

    task: of the images, if it is given.
    """

    allowed: Tensor

    def __init__(self, trained: Trained, task: int | None) -> None:
        super().__init__()
        self.method = frozen(trained.method).cpu()
        self.view = None if task is None else trained.view(task, torch.device("cpu"))
        self.given = task if trained.problem.kind == "task" else None
        self.visit = None if task is None else trained.first_visit(task)
        self.register_buffer("allowed", trained.answering(task))

    def forward(self, images: Tensor) -> Tensor:
        if self.view is not None and self.visit is not None:
            n = images.shape[0]  # len() would fix how many there are
            images = self.view(images, images.new_full((n,), self.visit, dtype=torch.int16))
        return masked(self.method(images, index=self.given), self.allowed)


@usual_torch()
@torch.no_grad()
def export(trained: Trained, file: Path, task: int | None) -> None:
    """Writes the graph of a trained model, with its labels.json inside, after a check that its logits are the same.

    Raises InputError for a model that torch cannot export, with the reason.
    """
    if trained.problem.pictures:
        raise InputError(
            "export: this run learned from features, and the network that computes them would be missing in the graph"
        )
    model = Answers(trained, task)
    examples = [
        torch.rand(n, *trained.problem.image_shape, generator=torch.Generator().manual_seed(n)) for n in (2, 1, 7)
    ]
    expected = [model(images) for images in examples]
    name = f"export: method={trained.settings['choices']['method']}"
    # torch prints the graph so far, pages of it, before our one line
    torchs = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    before = torchs.level
    torchs.setLevel(logging.CRITICAL + 1)
    try:
        shapes = {"images": {0: torch.export.Dim("images", min=1, max=2**20)}}
        with redirect_stderr(StringIO()):
            program = torch.export.export(model, (examples[0],), dynamic_shapes=shapes, strict=False)
        content = BytesIO()
        labels = labels_of(trained.problem, trained.after) | {"task": task}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No complete tensor")  # masks that are rows of one tensor
            torch.export.save(program, content, extra_files={"labels.json": json.dumps(labels)})
        content.seek(0)
        graph = torch.export.load(content).module()
        found = [graph(images) for images in examples]
    except Exception as error:  # of what it can't trace it raises many classes
        raise InputError(f"{name}: cannot be a graph that needs only torch ({reason(error)})") from error
    finally:
        torchs.setLevel(before)
    for ours, theirs in zip(expected, found, strict=True):
        same = ours.argmax(1).equal(theirs.argmax(1))
        if not same or not torch.allclose(ours, theirs, atol=CLOSE * float(ours[:, model.allowed].abs().max())):
            raise InputError(f"{name}: the exported graph predicts something else, so it was not written")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, lambda fresh: fresh.write_bytes(content.getbuffer()))
    except OSError as error:
        raise InputError(f"file={file}: can't be written ({error.strerror})") from error


def reason(error: Exception) -> str:
    """Why torch.export refused, in one line."""
    if "specialized" in str(error):
        return "its computation depends on the number of images"
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
