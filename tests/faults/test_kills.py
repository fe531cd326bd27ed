"""kill -9 at any moment, as often as you like: the same command goes on and ends with the same numbers, bit for bit."""

from __future__ import annotations

import csv
import json
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CLOCKS, METHODS, without_clocks
from processes import Attempt, Event, arguments_of, attempt

pytestmark = pytest.mark.faults

SEEDS = (0, 1, 2)
EVERY = {0: 0.0, 1: 0.03, 2: 0.3}  # seconds between the checkpoints, by seed


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """A record of each run that was killed, summed up at the end of the session and kept in kills.json."""
    runs: list[dict[str, Any]] = []
    yield runs
    file = tmp_path_factory.getbasetemp() / "kills.json"
    file.write_text(json.dumps(runs, indent=1))
    fell = sum((Counter(run["fell"]) for run in runs), Counter())
    steps, repeated = (sum(run[name] for run in runs) for name in ("steps", "repeated"))
    capture: Any = request.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{len(runs)} runs of {len({run['method'] for run in runs})} methods, {sum(fell.values())} kills:")
        for where, number in sorted(fell.items()):
            print(f"  {number:4} {where}")
        print(f"  {repeated} of {steps} steps repeated ({repeated / max(steps, 1):.1%}); each run: {file}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], tuple[list[Event], Path]]:
    """`undisturbed(method, seed)`: all that a run tells when nobody kills it, and where it left its results."""

    @cache
    def run(method: str, seed: int) -> tuple[list[Event], Path]:
        folder = tmp_path_factory.mktemp("whole")
        one = attempt(command_of(method, seed), folder)
        assert one.exit_code == 0, one.said
        return one.events, folder

    return run


def command_of(method: str, seed: int, every: float = 60) -> list[str]:
    """Six chunks a phase or more."""
    return arguments_of(method, "trainer.epochs=4", "trainer.chunk=2", f"seed={seed}", f"checkpoint_every={every}")


def outcome(folder: Path) -> tuple[Any, list[list[str]], dict[str, Any]]:
    """The whole results.json of the run in this folder but clocks, its curves, and its last state."""
    (results,) = folder.glob("outputs/*/*/results.json")
    found = json.loads(results.read_text())
    with results.with_name("log.csv").open(newline="") as file:
        curves = [row for row in csv.reader(file) if row[3] not in CLOCKS]
    newest = max(results.parent.glob("checkpoints/task*.pt"), key=lambda file: int(file.stem[4:]))
    return without_clocks(found), curves, torch.load(newest, weights_only=True)["method"]


def same(a: Any, b: Any) -> bool:
    if torch.is_tensor(a):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(-1), b.view(-1))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def fell(events: list[Event]) -> str:
    """Where a kill fell, by the last thing that the process told."""
    last = events[-1]
    if last.what == "written":  # it goes on with what it was at before
        last = next(event for event in reversed(events) if event.what not in ("writing", "written"))
    if last.what in ("writing", "half written"):
        return f"writing {'a checkpoint' if last.phase.startswith('checkpoints/') else 'results'}"
    return {
        "begun": "starting",
        "training": f"in phase {last.phase}",
        "chunk": f"in phase {last.phase}",
        "trained": "after a phase",
        "evaluation": "in evaluation",
        "evaluated": "after evaluation",
        "kept": "between tasks",
        "finishing": "finishing",
    }[last.what]


def plan(whole: list[Event], chance: random.Random) -> list[tuple[int, float, float | None]]:
    """Kills: after which event of the whole story, how many seconds later, or at which share of the next checkpoint.

    One inside each kind of phase, one in the middle of a checkpoint, one in evaluation, one between tasks, one when all
    is learned and the last results are not written yet, the rest (one at least, six in all) anywhere.
    """
    last = max(event.task for event in whole)
    chunks: dict[str, list[int]] = {}
    for i, event in enumerate(whole[:-1]):
        if event.what == whole[i + 1].what == "chunk":  # not at the end of a phase
            chunks.setdefault(event.phase, []).append(i)
    evaluations = [i for i, event in enumerate(whole) if event.what == "evaluation"]
    ends = [i for i, event in enumerate(whole) if event.what == "kept" and event.task < last]
    before = ends[-1]  # what comes later has no checkpoint but the last one
    kills: list[tuple[int, float, float | None]] = [
        *((chance.choice(places), chance.choice([0, 0.002]), None) for places in chunks.values()),
        (chance.choice(evaluations), chance.uniform(0, 0.005), None),
        (chance.choice(ends), chance.uniform(0, 0.002), None),
        (chance.randrange(before), 0.0, chance.random()),
        (next(i for i, event in enumerate(whole) if event.what == "finishing"), 0.0, None),
    ]
    while len(kills) < max(6, len(chunks) + 6):
        kills.append((chance.randrange(before), chance.uniform(0, 0.005), None))
    return sorted(kills, key=lambda kill: kill[0])


def done(events: list[Event]) -> dict[tuple[int, str, int], int]:
    """The chunks that a process finished, by their place, and how many steps each of them is."""
    chunks, at = {}, 0
    for event in events:
        if event.what == "training":
            at = event.step
        elif event.what == "chunk":
            chunks[event.task, event.phase, event.step] = event.step - at
            at = event.step
    return chunks


def overdue(killed: list[Event], again: set[tuple[int, str, int]], every: float) -> int:
    """Chunks that have to be done again though they ended `every` seconds or more after the last checkpoint."""
    late, saved = 0, None
    for event in killed:
        checkpoint = event.what == "written" and event.phase.startswith("checkpoints/")
        if checkpoint or event.what == "kept" or (event.what == "training" and saved is None):
            saved = event.time
        elif event.what == "chunk" and (event.task, event.phase, event.step) in again:
            assert saved is not None
            late += event.time - saved >= every
    return late


def reached(places: dict[tuple[str, int, str, int], int], i: int, delay: float) -> Callable[[Event], float | None]:
    """To kill at the i-th event of the story, or at the first one after it."""
    return lambda event: delay if places.get(event.place, -1) >= i else None


def assert_same_outcome(one: Path, other: Path) -> None:
    (results, curves, state), (expected, expected_curves, expected_state) = outcome(one), outcome(other)
    assert results == expected
    assert curves == expected_curves
    assert same(state, expected_state)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_any_moment(
    method: str, seed: int, tmp_path: Path, undisturbed: Any, tally: list[dict[str, Any]]
) -> None:
    whole, folder = undisturbed(method, seed)
    places = {event.place: i for i, event in enumerate(whole)}
    every = EVERY[seed]
    command = command_of(method, seed, every)
    attempts: list[Attempt] = []
    for i, delay, halfway in plan(whole, random.Random(f"{method} {seed}")):
        one = attempt(command, tmp_path, when=reached(places, i, delay), halfway=halfway)
        assert one.exit_code in (-signal.SIGKILL, 0), one.said  # 0: it was over before the signal came
        attempts.append(one)
    attempts.append(attempt(command, tmp_path))
    assert attempts[-1].exit_code == 0, attempts[-1].said
    killed = [one for one in attempts if one.exit_code != 0]
    assert len(killed) >= 5
    assert_same_outcome(tmp_path, folder)

    chunks = [done(one.events) for one in attempts]
    for i, one in enumerate(attempts):
        again = chunks[i].keys() & set().union(*chunks[i + 1 :])
        assert overdue(one.events, again, every) <= 2  # that of the kill; one that a busy machine told late
    steps = sum(done(whole).values())
    tally.append(
        {
            "method": method,
            "seed": seed,
            "checkpoint_every": every,
            "kills": len(killed),
            "fell": Counter(fell(one.events) for one in killed),
            "steps": steps,
            "repeated": sum(sum(one.values()) for one in chunks) - steps,
        }
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("method", METHODS)
def test_stopped_at_any_moment(method: str, number: signal.Signals, tmp_path: Path, undisturbed: Any) -> None:
    """It saves at once, however long ago the last checkpoint was: nothing is done again."""
    whole, folder = undisturbed(method, 0)
    places = {event.place: i for i, event in enumerate(whole)}
    last = max(i for i, event in enumerate(whole) if event.what == "chunk")
    i = random.Random(f"{method} {number}").randrange(2, last)
    command = command_of(method, 0)
    stopped = attempt(command, tmp_path, when=reached(places, i, 0), number=number)
    assert stopped.exit_code == 128 + number
    assert "stopped; the work so far is saved, and the same command continues it\n" in stopped.said
    end = attempt(command, tmp_path)
    assert end.exit_code == 0, end.said
    assert_same_outcome(tmp_path, folder)
    assert not done(stopped.events).keys() & done(end.events).keys()
