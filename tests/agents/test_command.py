"""The command thp-env among other programs: pipes, versions, what is not installed, and what nobody expected."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from support.episodes import small_program
from thp_agents.cli import main
from thp_agents.refusals import EXTRAS

import thp_env
from thp_env.traces import save_program

COMMAND = Path(sys.executable).with_name("thp-env")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_program(small_program(), tmp_path / "small.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder: Path, *words: str | Path, **changes) -> subprocess.CompletedProcess:
    return subprocess.run([*words], capture_output=True, text=True, check=False, cwd=folder, timeout=120, **changes)


@pytest.mark.parametrize("verb", ["policies", "workloads --json", "--help"])
def test_a_reader_that_has_seen_enough_is_no_error(folder: Path, verb: str) -> None:
    done = run(folder, "bash", "-c", f"set -o pipefail; {COMMAND} {verb} | head -c 1")
    assert (done.returncode, done.stderr) == (0, "")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run([COMMAND, *verb.split()], stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_output_at_all_is_no_error(folder: Path) -> None:
    done = run(folder, "bash", "-c", f"{COMMAND} policies >&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_the_output_is_one_line(folder: Path) -> None:
    done = run(folder, "bash", "-c", f"{COMMAND} policies > /dev/full")
    assert done.returncode == 2
    assert done.stderr == "thp-env: [Errno 28] No space left on device\n"


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    expected = f"thp-env {thp_env.__version__} (behaviour {thp_env.BEHAVIOUR} of the simulator)\n"
    assert capsys.readouterr().out == expected


# -- extras ----------------------------------------------------------------------------------------


def test_every_extra_has_what_it_is_said_to_have() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    distribution = {"sb3_contrib": "sb3-contrib", "sklearn": "scikit-learn", "stable_baselines3": "stable-baselines3",
                    "yaml": "pyyaml", "h5py": "minari[hdf5]"}  # fmt: skip
    for extra, modules in EXTRAS.items():
        for module in modules:
            name = distribution.get(module, module)
            assert any(required.startswith(name) for required in extras[extra]), (extra, module)


VERBS = {
    "train --workloads small.npz --steps 8": "torch",
    "train --agent rollouts --workloads small.npz --steps 8": "sklearn",
    "evaluate --policies 64K --workloads small.npz": "tqdm",
    "evaluate --policies 64K --workloads small.npz --report r": "matplotlib",
    "distill ppo#0 --no-score --rounds 1 --episodes 1": "sklearn",
    "demo": "matplotlib",
    "tune": "optuna",
    "dataset": "minari",
    "workloads small.npz --profile": "tqdm",
    "workloads show small.npz": "matplotlib",
    "evaluate --policies 64K --workloads small.npz --ray": "ray",
}


@pytest.mark.parametrize(("verb", "module"), VERBS.items())
def test_what_is_not_installed_is_named_with_its_extra(folder: Path, verb: str, module: str) -> None:
    extra = next(extra for extra, modules in EXTRAS.items() if module in modules)
    code = f"import sys; sys.modules[{module!r}] = None; from thp_agents.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run(folder, sys.executable, "-c", code, *verb.split())
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.startswith("thp-env: ")]
    assert len(lines) == 1, done.stderr
    assert f"pip install 'thp-env[{extra}]'" in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["policies", "workloads", "--version", "replay gone.npz", "probe --workloads gups"])
def test_what_needs_no_extra_works_without(folder: Path, words: str) -> None:
    block = "".join(f"sys.modules[{m!r}] = None; " for modules in EXTRAS.values() for m in modules)
    code = f"import sys; {block}from thp_agents.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run(folder, sys.executable, "-c", code, *words.split())
    assert "pip install" not in done.stderr
    assert "Traceback" not in done.stderr


# -- the unexpected --------------------------------------------------------------------------------


def one_line(err: str) -> str:
    assert err.startswith("thp-env: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_an_unknown_exception_is_one_line(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*arguments: object) -> int:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr("thp_agents.cli._list", broken)
    assert main(["policies"]) == 2
    said = one_line(capsys.readouterr().err)
    assert said == "thp-env: ZeroDivisionError: first line second line (--debug shows where)\n"
    for words, setting in ((["--debug", "policies"], ""), (["policies", "--debug"], ""), (["policies"], "1")):
        monkeypatch.setenv("THP_ENV_DEBUG", setting)
        with pytest.raises(ZeroDivisionError):
            main(words)


BODIES = {
    "at import": ("1 / 0", "ZeroDivisionError"),
    "exit at import": ("import sys; sys.exit('bye')", "SystemExit: bye"),
    "a module that is missing": ("import no_such_module", "no_such_module"),
    "in decide": (" def decide(self, o, v):\n  raise LookupError('lost')", "LookupError: lost"),
    "exit in decide": (" def decide(self, o, v):\n  raise SystemExit(5)", "SystemExit: 5"),
    "endless recursion": (" def decide(self, o, v):\n  return self.decide(o, v)", "RecursionError"),
    "a property that raises": (" @property\n def name(self):\n  raise RuntimeError('no name')", "no name"),
    "meta that is none": (" meta = 3\n def decide(self, o, v):\n  return v.no_op", "has no attribute"),
}


@pytest.mark.parametrize(("what", "processes"), [*((what, "1") for what in BODIES), ("exit in decide", "2")])
def test_whatever_a_policy_raises_is_one_line(
    folder: Path, what: str, processes: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    body, told = BODIES[what]
    head = "from thp_agents.policy import Policy\nclass P(Policy):\n default_sizes = '4K'\n source = 'me'\n"
    if "property" not in what:
        head += " name = 'mine'\n"
    (folder / "mine.py").write_text(body if "import" in what or "missing" in what else head + body)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    words = ["--workloads", "small.npz", "--quiet", "--processes", processes]
    code = main(["evaluate", "--policies", "mine:P", "64K", *words])
    err = capfd.readouterr().err
    assert told in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert code == (0 if "decide" in body and "meta" not in body else 2)


def test_a_workload_of_a_plug_in_that_raises_is_one_line(folder: Path, monkeypatch, capsys) -> None:
    from thp_env.workload import Workload, workloads

    def sample(rng):
        raise AssertionError("not today")

    known = {**workloads(), "broken": Workload("broken", "generator", "broken", "train", "", sample)}
    monkeypatch.setattr("thp_env.workload.workloads", lambda: known)
    assert main(["evaluate", "--policies", "64K", "--workloads", "broken", "--quiet", "--processes", "1"]) == 2
    told = "workload broken fails with seed 0: AssertionError: not today"
    assert told in one_line(capsys.readouterr().err)


# -- output to what is no file ---------------------------------------------------------------------


def read_from(path: Path, read: list[bytes]) -> threading.Thread:
    os.mkfifo(path)
    thread = threading.Thread(target=lambda: read.append(path.read_bytes()))
    thread.start()
    return thread


def test_output_to_a_fifo(folder: Path) -> None:
    (folder / "r").mkdir()
    read: dict[str, list[bytes]] = {"runs.csv": [], "r/savings.png": [], "r/index.html": []}
    threads = [read_from(folder / name, into) for name, into in read.items()]
    words = ["evaluate", "--policies", "64K", "--workloads", "small.npz", "--quiet", "--processes", "1"]
    assert main([*words, "--csv", "runs.csv", "--report", "r"]) == 0
    for thread in threads:
        thread.join(20)
    assert read["runs.csv"][0].startswith(b"policy,training")
    assert read["r/savings.png"][0].startswith(b"\x89PNG")
    assert read["r/index.html"][0].startswith(b"<!doctype html>")
    assert all(stat.S_ISFIFO((folder / name).stat().st_mode) for name in read)


@pytest.mark.parametrize("words", [
    "evaluate --policies 64K --workloads small.npz --quiet --processes 1 --csv",
    "train --agent bandit --workloads small.npz --steps 8 --quiet --out",
    "workloads small.npz --profile --seeds 1 --quiet --out",
])  # fmt: skip
def test_output_to_devices(folder: Path, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = os.stat("/dev/null").st_rdev
    assert main([*words.split(), "/dev/null"]) == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.stat("/dev/null").st_rdev == before
    capfd.readouterr()
    assert main([*words.split(), "/dev/full"]) == 2
    assert "cannot write /dev/full: No space left on device" in one_line(capfd.readouterr().err)


def test_pages_stay_in_the_reports_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    save_program(small_program(), folder / "sub" / "small.npz")
    words = ["--policies", "64K", "--workloads", "sub/small.npz", str(folder / "sub" / "small.npz"), "--quiet"]
    assert main(["evaluate", *words, "--report", "r", "--processes", "1"]) == 0
    assert os.listdir(folder / "sub") == ["small.npz"]
    assert len(list((folder / "r").iterdir())) == 5
