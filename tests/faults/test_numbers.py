"""Numbers gone bad stop a run where they went bad, and nothing of them is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Compose

from cl_bench.__main__ import main
from cl_bench.config.names import folder_of
from cl_bench.methods.dgr import DGR
from cl_bench.methods.finetune import Finetune
from cl_bench.runs.folder import read_results
from cl_bench.runs.loop import run
from cl_bench.runs.watch import Diverged

loss = Finetune.loss


def explodes(method: Finetune) -> torch.Tensor:
    """0 with a gradient of 0 / 0, as the square root of a norm that vanishes has it."""
    bias = method.weights["head.bias"]
    return (bias - bias.detach()).abs().sqrt().sum()


def overflows(method: Finetune) -> torch.Tensor:
    """Nothing, but the weight of an output that takes no part yet is too large: no loss and no gradient shows it."""
    method.weights["head.bias"].data[9] = torch.inf
    return torch.zeros(())


BAD = {
    "loss": (lambda method: torch.tensor(torch.nan), "loss is nan"),
    "gradient": (explodes, "the gradient of network.head.bias is nan"),
    "weight": (overflows, "network.head.bias is inf"),
}


def tensors(value: Any) -> list[torch.Tensor]:
    if torch.is_tensor(value):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


@pytest.mark.parametrize("step", [4, 6])  # in a chunk of three, and the last one of it: not one loss is bad but its own
@pytest.mark.parametrize("what", BAD)
def test_a_number_gone_bad_stops_the_run_where_it_did(
    what: str, step: int, small: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, named = BAD[what]
    seen = 6 if what == "weight" else step  # weights are looked at when a chunk ends

    def bad(self: Finetune, batch: Any) -> torch.Tensor:
        return loss(self, batch) + (add(self) if (self.index, self.step_index) == (2, step - 1) else 0)

    monkeypatch.setattr(Finetune, "loss", bad)
    settings = small("method=finetune", "checkpoint_every=0")
    with pytest.raises(Diverged) as stopped:
        run(settings)
    assert str(stopped.value) == f"task 3, train, step {seen}: {named}"
    folder = folder_of(settings)
    results = read_results(folder)
    assert results
    assert (results.status, results.reason) == ("failed", str(stopped.value))
    files = sorted(folder.glob("checkpoints/*"))
    assert [file.name for file in files] == ["phase.pt", "task0.pt", "task1.pt"]
    for file in files:
        assert all(one.isfinite().all() for one in tensors(torch.load(file, weights_only=True)))
    monkeypatch.setattr(Finetune, "loss", loss)
    assert run(settings).R == run(small("method=finetune", root="other")).R


def test_what_is_measured_in_the_middle_does_not_hide_why_numbers_went_bad(small: Compose) -> None:
    """The answers are NaN before the chunk ends, and the step that made them so is the reason."""
    with pytest.raises(Diverged, match=r"^task 1, train, step \d: loss is nan"):
        run(small("method=finetune", "optimizer=sgd", "optimizer.lr=1e30", "evaluate_every=3"))


@pytest.mark.parametrize("gan", ["mlp", "acgan_mlp"])
def test_a_generator_that_collapses_is_a_warning_with_the_histogram(
    gan: str, small: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    """Without conditions by the classes that it draws; with them by what the old solver sees in what was asked for."""
    monkeypatch.setattr(DGR, "old_logits", lambda self, old, x: torch.eye(10)[3].expand(len(x), 10))
    monkeypatch.chdir(tmp_path)
    settings = ["method=dgr", f"gan@method.gan={gan}", "trainer.epochs=1", "trainer.accelerator=cpu"]
    quick = ["network.hidden=[16]", "method.n_gen=30", "method.generator_epochs=1", "scenario.n_tasks=5"]
    assert main([*settings, *quick]) == 0
    said = capsys.readouterr().out
    counts = "[0, 0, 0, 60, 0, 0, 0, 0, 0, 0]"
    assert f"task 3: the generator has collapsed; numbers of images per class among 60 images: {counts}" in said
