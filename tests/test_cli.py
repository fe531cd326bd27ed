"""The command line as a person has it: real processes, from an empty folder."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cl_bench
from cl_bench.__main__ import main
from cl_bench.config import InputError
from cl_bench.config.compose import compose
from cl_bench.config.names import folder_of
from cl_bench.process import importing
from cl_bench.record import Results, load_results
from cl_bench.runs.curves import read
from cl_bench.runs.loop import run

QUICK = ["trainer.epochs=1", "trainer.threads=1", "trainer.accelerator=cpu", "network.hidden=[16]"]
# some seconds of training, so that there is a middle to be killed in
LONG = [
    "method=dgr",
    *QUICK,
    "trainer.epochs=6",
    "trainer.chunk=3",
    "checkpoint_every=0",
    "method.n_gen=100",
    "method.generator_epochs=6",
    "method.gan.generator.hidden=[16]",
    "method.gan.critic.hidden=[16]",
]
ENVIRONMENT = os.environ | {"PYTHONWARNINGS": "ignore::UserWarning"}  # a generator this small may collapse

Start = Callable[..., subprocess.Popen[str]]


def cl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m cl_bench ARGUMENTS` to its end."""
    command = [sys.executable, "-m", "cl_bench", *arguments]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def without_torch(*commands: list[str], cwd: Path) -> str:
    """What these command lines print, one after another in one process that must not import torch."""
    code = f"""
import sys
import cl_bench
from cl_bench.__main__ import main
for arguments in {list(commands)!r}:
    try:
        main(arguments)
    except SystemExit as end:  # Hydra's way to end --help
        assert not end.code, arguments
    assert "torch" not in sys.modules, arguments
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start("seed=1", until=lambda: learns(2, tmp_path))`: a long run, in the middle of its work."""
    processes: list[subprocess.Popen[str]] = []

    def started(*arguments: str, until: Callable[[], bool]) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cl_bench", *LONG, *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)
        processes.append(process)
        while process.poll() is None and not until():
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        return process

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def learns(task: int, folder: Path) -> bool:
    """Whether a run below a folder has begun the first of a task's two phases: none is far from its end, so that a
    signal at once comes while there is something to save."""
    rows = [row for log in folder.glob("outputs/*/*/log.csv") for row in read(log)]
    return any((row.task, row.phase) == (task, "solver") for row in rows)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of the long run when nothing disturbs it."""
    return run(compose(*LONG, "checkpoint_every=60", f"output_root={tmp_path_factory.mktemp('whole')}"))


def numbers(results: Results) -> str:
    """Every number that a run found out, as text."""
    # the judge of generated images is another one in this process, see conftest.py
    of_learner = {name: value for name, value in results.metrics.items() if not name.startswith(("FID", "MeRGAN"))}
    steps = [[phase.optimizer_steps for phase in record.phases] for record in results.tasks]
    return json.dumps([results.R, results.b, results.R_task_masked, results.bytes_kept, of_learner, steps])


def kept(folder: Path) -> Results:
    return load_results(folder)


def test_what_needs_no_training_needs_no_torch(tmp_path: Path) -> None:
    said = without_torch(
        ["--help"],
        ["--cfg", "job", "-p", "method", "method=ewc"],
        ["--cfg", "job"],
        ["--info", "config", "seed=1"],
        ["method=nosuch"],
        ["method.strenght=1"],
        ["dataset=npz"],
        ["seed=abc"],
        cwd=tmp_path,
    )
    assert "python -m cl_bench method=ewc dataset=mnist" in said
    assert "method: agem, bic, clnp, continual_backprop" in said  # the choices of each group
    assert "_target_: cl_bench.methods.ewc.EWC" in said
    assert "checkpoint_every: 60" in said
    assert "error: method=nosuch" in said
    assert not list(tmp_path.iterdir())


def test_nothing_looks_for_garbage_among_new_modules() -> None:
    gc.unfreeze()
    for enabled in (False, True):
        (gc.enable if enabled else gc.disable)()
        with importing():
            assert not gc.isenabled()
            modules = [{"name": number} for number in range(5_000)]
        assert gc.isenabled() == enabled
        young = {id(some) for generation in (0, 1) for some in gc.get_objects(generation)}
        assert not young & {id(module) for module in modules}
    gc.freeze()  # as the tests began
    frozen = gc.get_freeze_count()
    with importing():
        pass
    assert 0 <= frozen - gc.get_freeze_count() < 100  # some may have ended, in another thread


@pytest.mark.parametrize("flag", ["--version", "--vers"])
def test_the_version_is_ours(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["method=er", flag])
    assert not end.value.code
    assert capsys.readouterr().out == f"cl_bench {cl_bench.__version__}\n"


@pytest.mark.parametrize(
    "words", [["reprot"], ["explian", "method=er"], ["-m", "dashbord"], ["seed=1", "report"], ["verfy"]]
)
def test_a_command_that_is_none_is_told_by_the_nearest(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    word = next(word for word in words if word.isalpha())
    nearest = {"re": "report", "ex": "explain", "da": "dashboard", "ve": "verify"}[word[:2]]
    assert capsys.readouterr().err == f"error: {word}: is not KEY=VALUE; did you mean cl-bench {nearest}?\n"


def test_a_sweep_and_the_same_sweep_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two methods by two seeds, from another folder than the repository's; again, it answers at once."""
    monkeypatch.chdir(tmp_path)
    sweep = ["method=finetune,ewc", *QUICK, "-m", "seed=0,1"]
    assert main(sweep) == 0
    first = capsys.readouterr()
    assert first.err == ""
    folders = [path.parent for path in tmp_path.glob("outputs/*/*/results.json")]
    assert len(folders) == 4
    lines = first.out.splitlines()
    for number, job in enumerate(("finetune seed=0", "finetune seed=1", "ewc seed=0", "ewc seed=1")):
        method, seed = job.split()
        (header,) = (line for line in lines if f"#{number} : " in line)
        assert f"method={method}" in header
        assert seed in header
    for folder in folders:
        assert any(line.endswith(f"kept in {folder.relative_to(tmp_path)}") for line in lines)
        assert kept(folder).status == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]  # no log, no link, no copy of the settings

    before = {folder: (folder / "results.json").stat().st_mtime_ns for folder in folders}
    again = without_torch([*sweep, "hydra/launcher=joblib"], ["method=ewc", *QUICK], cwd=tmp_path)  # nothing to launch
    assert "4 runs in 0:00:00: 4 there" in again
    assert all(again.count(f"kept in {folder.relative_to(tmp_path)}") >= 1 for folder in folders)
    assert before == {folder: (folder / "results.json").stat().st_mtime_ns for folder in folders}

    anew = run(compose("method=ewc", *QUICK, "resume=false", f"output_root={tmp_path / 'outputs'}"))
    (old,) = tmp_path.glob("outputs/*/*.old1")
    assert numbers(kept(old)) == numbers(anew)
    assert old.with_suffix("") in folders


def test_killed_and_run_again(start: Start, whole: Results, tmp_path: Path) -> None:
    """kill -9 in the middle of a task; meanwhile nobody else gets into the folder."""
    settings = compose(*LONG, f"output_root={tmp_path / 'outputs'}")
    process = start(until=lambda: learns(2, tmp_path))
    with pytest.raises(InputError, match="another process works in"):
        run(settings)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    results = run(settings)
    assert numbers(results) == numbers(whole)
    assert numbers(kept(folder_of(settings))) == numbers(whole)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_stopped_and_run_again(number: signal.Signals, code: int, start: Start, whole: Results, tmp_path: Path) -> None:
    """A signal ends a whole sweep, says how to go on, and the run goes on where it was."""
    process = start("-m", "checkpoint_every=1000", "seed=0,1", until=lambda: learns(2, tmp_path))
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said == "stopped; the work so far is saved, and the same command continues it\n"
    settings = compose(*LONG, f"output_root={tmp_path / 'outputs'}")
    assert [path.name for path in folder_of(settings).parent.iterdir()] == [folder_of(settings).name]  # not seed 1
    assert (folder_of(settings) / "checkpoints" / "phase.pt").exists()
    assert kept(folder_of(settings)).status == "running"
    assert numbers(run(settings)) == numbers(whole)


@pytest.mark.slow
def test_killed_twice_from_the_command_line_alone(start: Start, whole: Results, tmp_path: Path) -> None:
    for task in (1, 3):
        process = start(until=partial(learns, task, tmp_path))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    ended = cl(*LONG, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    (results,) = tmp_path.glob("outputs/*/*/results.json")
    assert numbers(kept(results.parent)) == numbers(whole)


@pytest.mark.slow
def test_what_should_be_quick_is(tmp_path: Path) -> None:
    """In seconds, the best of three: other work may be going on."""
    cl("method=finetune", *QUICK, cwd=tmp_path)
    for limit, arguments in [
        (1.5, ["--help"]),
        (1.5, ["--cfg", "job"]),
        (2.0, ["method=nosuch"]),
        (2.0, ["seed=abc"]),
        (2.0, ["method=finetune", *QUICK]),  # finished
    ]:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            cl(*arguments, cwd=tmp_path)
            times.append(time.perf_counter() - began)
            if times[-1] < limit:
                break
        assert min(times) < limit, arguments


def test_a_wheel_has_its_configuration_inside(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    source = Path(cl_bench.__file__).parents[1]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    for name in (
        "conf/config.yaml",
        "sweeps/n_gen.yaml",
        "results/published/permuted.yaml",
        "py.typed",
        "data/digits.npz",
    ):
        assert (site / "cl_bench" / name).exists()
    ended = cl("method=finetune", *QUICK, cwd=site)  # the folder one stands in comes first
    assert (ended.returncode, ended.stderr) == (0, "")
    listed = cl("--info", "searchpath", cwd=site)
    assert str(site / "cl_bench" / "conf") in listed.stdout
    for name in ("conf/method/er.yaml", "sweeps/n_gen.yaml"):
        *_, group, file = Path(name).with_suffix("").parts
        assert cl("explain", f"{group}={file}", cwd=site).stdout == (source / name).read_text()

    (point,) = (site / f"cl_bench-{cl_bench.__version__}.dist-info").glob("entry_points.txt")
    module, function = re.findall(r"^cl-bench = ([\w.]+):(\w+)$", point.read_text(), re.M)[0]
    script = site / "cl-bench"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    script.chmod(0o755)
    environment = ENVIRONMENT | {"PYTHONPATH": str(site), "PATH": f"{site}{os.pathsep}{ENVIRONMENT['PATH']}"}

    def said(command: str) -> str:
        done = subprocess.run(["bash", "-c", command], cwd=site, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert said("cl-bench --version") == f"cl_bench {cl_bench.__version__}\n"
    assert said(f"cl-bench method=finetune {' '.join(QUICK)}").endswith(ended.stdout.splitlines()[-1] + "\n")
    assert "1 finished runs of 1 configurations" in said("cl-bench report")
    assert "project=NAME" in said("cl-bench dashboard --help")
    complete = 'eval "$(cl-bench -sc install=bash)"; COMP_CWORD=1; COMP_LINE="cl-bench method=e"; COMP_POINT=17'
    assert (
        said(f"{complete}; hydra_bash_completion; echo ${{COMPREPLY[@]}}")
        == "method=er method=er_ace method=ewc method=ewc_gan\n"
    )
    code = f"import cl_bench; run = cl_bench.run(*{['method=finetune', *QUICK]}); "
    code += "print(cl_bench.evaluate(run) - run.R[-1], cl_bench.__file__)"
    python = said(f'"{sys.executable}" -c "{code}"')
    assert "[0. 0. 0. 0. 0.]" in python
    assert str(site) in python


@pytest.mark.parametrize(
    ("where", "advice"),
    [
        ("cl_bench.data.datasets.read_npz", " by the data set; a smaller dataset.size, or fewer images, need less"),
        ("cl_bench.methods.dgr.DGR.replayed", " by replayed images; a smaller method.n_gen needs less"),
        ("cl_bench.methods.dgr.DGR.loss", "; a smaller network or trainer.batch_size needs less"),
    ],
)
def test_out_of_memory_names_the_key_that_helps_there(
    where: str, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(where, fails)
    short = [
        "trainer.epochs=1",
        "method.generator_epochs=1",
        "method.n_gen=9",
        "trainer.accelerator=cpu",
        "scenario.n_tasks=2",
    ]
    assert main(["method=dgr", f"output_root={tmp_path}", *short]) == 1
    said = capsys.readouterr().err
    assert said == f"error: out of memory{advice} (you tried to allocate 9 bytes)\n"


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A line for bash in which CL stands for the command."""
    line = f"set -o pipefail; {command.replace('CL', f'{sys.executable} -m cl_bench')}"
    return subprocess.run(["bash", "-c", line], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("outputs", "code", "reason"),
    [
        ("| true", 1, "Broken pipe"),
        (">/dev/full", 1, "No space left on device"),
        (">&-", 1, "Bad file descriptor"),
        (">&- 2>&-", 1, ""),
        ("2>/dev/full", 0, ""),
        ("2>&-", 0, ""),
    ],
)
def test_an_output_that_takes_nothing_is_one_line(outputs: str, code: int, reason: str, tmp_path: Path) -> None:
    """`--cfg` prints at once; so does what is finished."""
    for arguments in ("--cfg job", "-m method=packnet seed=0,1"):
        ended = shell(f"CL {arguments} {outputs}", tmp_path)
        assert ended.returncode == code
        assert ended.stderr.splitlines() == [f"error: standard output: {reason}; everything else was done"] * bool(
            reason
        )


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [">/dev/full", "| head -1"])
def test_a_run_outlives_its_output(outputs: str, tmp_path: Path) -> None:
    ended = shell(f"CL method=finetune {' '.join(QUICK)} {outputs}", tmp_path)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    (results,) = tmp_path.glob("outputs/*/*/results.json")
    assert kept(results.parent).status == "finished"


def test_a_terminal_that_knows_few_characters_is_no_error(tmp_path: Path) -> None:
    ended = shell("PYTHONIOENCODING=ascii CL -m method=packnet,hat seed=0,1", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


MOMENTS = ("hydra", "omegaconf", "cl_bench.config.compose", "cl_bench.runs.loop", "torch", "numpy")


@pytest.mark.parametrize(
    ("moment", "number"),
    [(moment, signal.SIGINT) for moment in MOMENTS]
    + [("torch", signal.SIGTERM)]  # both take the same way, but for the exit code
    + [pytest.param(moment, signal.SIGTERM, marks=pytest.mark.slow) for moment in MOMENTS if moment != "torch"],
)
def test_a_signal_while_modules_are_imported_is_one_line(moment: str, number: signal.Signals, tmp_path: Path) -> None:
    """Each signal comes from inside an import, where a KeyboardInterrupt may be taken for something else."""
    sitecustomize = f"""
import builtins, os, signal, sys
original = builtins.__import__
def hooked(name, *more, **named):
    if name == {moment!r} and "cl_bench.process" in sys.modules:
        builtins.__import__ = original
        os.kill(os.getpid(), int(os.environ["NUMBER"]))
    return original(name, *more, **named)
builtins.__import__ = hooked
"""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(sitecustomize)
    environment = ENVIRONMENT | {"NUMBER": str(int(number))}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "hook"), str(Path(cl_bench.__file__).parents[1])])
    command = [sys.executable, "-m", "cl_bench", "method=finetune", *QUICK, "trainer.progress=false"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 128 + number
    assert ended.stderr == "stopped; the work so far is saved, and the same command continues it\n"
    assert ended.stdout == ""


def test_every_module_can_be_imported_where_posix_is_not(tmp_path: Path) -> None:
    """As far as that can be seen on another system: what Windows lacks is hidden, and then a run is made."""
    code = f"""
import os, pkgutil, sys
import psutil  # it has a part for each system, and this one's needs what is hidden now
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("sysconf", "getuid", "sched_getaffinity", "fork"):
    if hasattr(os, name):
        delattr(os, name)
import warnings; warnings.simplefilter("ignore")
import cl_bench
from importlib import import_module
for module in pkgutil.walk_packages(cl_bench.__path__, "cl_bench."):
    import_module(module.name)
from cl_bench.__main__ import main
sys.exit(main({["method=finetune", *QUICK]!r}))
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (results,) = tmp_path.glob("outputs/*/*/results.json")
    assert kept(results.parent).peak_memory_mb > 50


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_of_others_on_a_full_disk_says_nothing(tmp_path: Path) -> None:
    """W&B's `debug.log`: a traceback for each of its lines."""
    (tmp_path / "logs.py").write_text(
        "import logging\n"
        "def main():\n"
        "    logging.basicConfig(filename='/dev/full')\n"
        "    for _ in range(3):\n"
        "        logging.warning('x')\n"
        "    return 0\n"
    )
    code = "from cl_bench.process import as_process; as_process('logs')"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    "module",
    [
        "cl_bench.report",
        "cl_bench.report.dashboard",
        "cl_bench report",
        "cl_bench dashboard",
        "cl_bench explain",
        "cl_bench evaluate",
    ],
)
def test_other_commands_say_one_line_too(module: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m {module} --help >/dev/full"
    ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "error: standard output: No space left on device; everything else was done\n"
