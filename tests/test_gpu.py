"""Every method on a GPU: it runs there in both precisions, and goes on after a kill as if there had been none."""

from __future__ import annotations

import pytest
import torch
from conftest import METHODS, Compose, Killed, killed_after
from test_contract import KINDS, equal, state_of

from cl_bench.runs.loop import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_equals_uninterrupted(method: str, precision: str, small: Compose) -> None:
    base = (
        f"method={method}",
        f"scenario={KINDS[method][0]}_incremental",
        "trainer.accelerator=gpu",
        "trainer.iterations=20",
        f"trainer.precision={precision}",
    )
    whole = run(small(*base, root="whole"))
    assert whole.device.startswith("cuda")
    settings = small(*base, "checkpoint_every=0", root="killed")
    with killed_after(9), pytest.raises(Killed):
        run(settings)
    resumed = run(settings)
    assert str(resumed.R) == str(whole.R)
    assert equal(state_of(settings)["method"], state_of(small(*base, root="whole"))["method"])
