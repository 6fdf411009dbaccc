"""Files from strangers: whatever is wrong with them is one line with file and place, and exit code 2."""

from __future__ import annotations

import json
import lzma
import os
import re
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.archives import arrays_of, declaring, encrypted, promising, twice, with_arrays, with_header, with_text
from thp_agents.cli import main
from thp_agents.learned import shipped

from thp_env import reading
from thp_env.reading import DEPTH_MAX, VALUES_MAX

DATA = Path(__file__).parent / "data"
HOSTILE = DATA / "hostile"
MLP, FOREST = Path(shipped()["ppo#0"]), Path(shipped()["rollouts_on_ski_rental#0"])
TRAJECTORY, PROGRAM = HOSTILE / "seed_neg.npz", HOSTILE / "w_program.npz"
DEEP = "[" * 100_000
DEEP_OBJECT = '{"a":' * 100_000
MANY = ",".join(f'"{i}":0' for i in range(100_000))

Maker = Callable[[Path], Path]


def header(source: Path, change: Callable[[dict], object]) -> Maker:
    return lambda folder: with_header(source, folder / "file.npz", change)


def text_header(source: Path, text: str) -> Maker:
    return lambda folder: with_text(source, folder / "file.npz", text)


def array(source: Path, name: str, value: Callable[[np.ndarray], np.ndarray] | None) -> Maker:
    def change(arrays: dict[str, np.ndarray]) -> None:
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value(arrays[name] if name in arrays else np.zeros(1, np.float32))

    return lambda folder: with_arrays(source, folder / "file.npz", change)


def written(content: str | bytes, name: str) -> Maker:
    def make(folder: Path) -> Path:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
        return folder / name

    return make


def there(name: str) -> Maker:
    return lambda folder: HOSTILE / name


def nan(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.reshape(-1)[0] = np.nan
    return a


def swapped(a: np.ndarray) -> np.ndarray:
    """Let the first inner node be its own child."""
    a = a.copy()
    a[np.flatnonzero(a > 0)[0]] = 0
    return a


POLICIES: dict[str, tuple[Maker, str]] = {
    "huge header": (there("p_hugeheader.npz"), "header declares 1000000000000 bytes and has 0"),
    "encrypted": (lambda f: encrypted(MLP, f / "file.npz"), "weight0 is encrypted"),
    "twice": (lambda f: twice(MLP, f / "file.npz"), "weight0 stands in it twice"),
    "a bomb": (lambda f: promising(MLP, f / "file.npz", 3 << 30), "3072 MiB unpacked"),
    "longer than promised": (lambda f: declaring((1 << 20,), f / "file.npz", packed=bytes(1 << 10)), "declares"),
    "truncated": (lambda f: written(MLP.read_bytes()[:-100], "file.npz")(f), "truncated"),
    "a folder": (lambda f: f / "file.npz" if (f / "file.npz").mkdir() is None else f, "not a regular file|directory"),
    "a pipe": (lambda f: f / "file.npz" if os.mkfifo(f / "file.npz") is None else f, "not a regular file"),
    "missing": (lambda f: f / "file.npz", "no such file"),
    "an object array": (array(MLP, "bias0", lambda a: a.astype(np.complex64)), "bias0 does not fit"),
    "args.default_sizes a list": (
        header(MLP, lambda h: h["signature"]["arguments"].update(default_sizes=[1])), "default_sizes: a list is not a text",
    ),
    "a share beyond": (header(MLP, lambda h: h["signature"]["arguments"].update(scan_share=2)), "scan_share must be from 0"),
    "half a character": (header(MLP, lambda h: h["meta"].update(name="\ud800")), "header: JSON with half of a surrogate"),
    "another workload": (header(MLP, lambda h: h["signature"]["arguments"].update(workload="gups")), "workload is set"),
    "unknown argument": (header(MLP, lambda h: h["signature"]["arguments"].update(windowms=1)), "mean 'window_ms"),
    "seed null": (header(MLP, lambda h: h["meta"].update(seed=None)), "header.meta.seed: "),
    "seed negative": (header(MLP, lambda h: h["meta"].update(seed=-1)), "header.meta.seed: "),
    "curve a number": (header(MLP, lambda h: h["meta"].update(curve=5)), "header.meta.curve: "),
    "config a list": (header(MLP, lambda h: h["meta"].update(config=[])), "header.meta.config: "),
    "class": (header(MLP, lambda h: h.update({"class": "os:system"})), "unknown key 'class'"),
    "base": (header(MLP, lambda h: h["signature"].update(base="os:system")), "os:system"),
    "environment": (header(MLP, lambda h: h["signature"].update(environment="this:Cart-v1")), "this:Cart-v1"),
    "activation": (header(MLP, lambda h: h.update(activation="system")), "header.activation: "),
    "network": (header(MLP, lambda h: h.update(network=["mlp"])), "header.network: "),
    "deep header": (text_header(MLP, DEEP), "nested deeper"),
    "deep arguments": (text_header(MLP, json.dumps({"format": "thp_env policy 2"})[:-1] + ', "meta": {"x": ' + "[" * 500
                                   + "]" * 500 + "}}"), "nested|deep|unknown|required"),
    "NaN in the header": (text_header(MLP, '{"format": NaN}'), "NaN is no number"),
    "a key twice": (text_header(MLP, '{"format": "a", "format": "b"}'), "'format' stands twice"),
    "weights NaN": (array(MLP, "weight1", nan), "weight1 holds weights that are not finite"),
    "shape": (array(MLP, "weight1", lambda a: a[:-1]), "do not fit together"),
    "one more array": (array(MLP, "weightx", lambda a: a), "unknown array 'weightx'"),
    "one array less": (array(MLP, "bias1", None), "bias1"),
    "forest with a cycle": (array(FOREST, "left", swapped), "no tree"),
    "forest without roots": (array(FOREST, "roots", lambda a: a[:0]), "no tree"),
    "forest of half nodes": (array(FOREST, "right", lambda a: a + 0.5), "no whole numbers"),
    "forest of unknown fields": (array(FOREST, "feature", lambda a: np.where(a >= 0, 9999, a)), "a field that there is not"),
}  # fmt: skip
TRAJECTORIES: dict[str, tuple[Maker, str]] = {
    "environment": (there("env_this.npz"), "header.env_id: 'this:CartPole-v1' is not known"),
    "option": (there("opt_default.npz"), "header.reset.options.default_sizes: a list"),
    "negative seed": (there("seed_neg.npz"), "header.reset.seed: -1"),
    "seed null": (header(TRAJECTORY, lambda h: h["reset"].update(seed=None)), "header.reset.seed: null"),
    "seed a float": (header(TRAJECTORY, lambda h: h["reset"].update(seed=1.5)), "header.reset.seed: 1.5"),
    "no seed": (header(TRAJECTORY, lambda h: h.update(reset={})), "a seed or an rng"),
    "unknown option": (header(TRAJECTORY, lambda h: h.update(reset={"seed": 0, "options": {"default_size": 1}})), "mean 'default_sizes"),
    "argument": (header(TRAJECTORY, lambda h: h.update(reset={"seed": 0}, arguments={"scan_share": "a"})), "scan_share"),
    "arguments a list": (header(TRAJECTORY, lambda h: h.update(reset={"seed": 0}, arguments=[])), "header.arguments"),
    "rng": (header(TRAJECTORY, lambda h: h.update(reset={"rng": {"bit_generator": "MT19937"}})), "header.reset.rng"),
    "ended": (header(TRAJECTORY, lambda h: h.update(reset={"seed": 0}, ended=0)), "header.ended: 0"),
    "rewards": (array(TRAJECTORY, "rewards", lambda a: a[:-1]), "header.reset|5 actions and 4 rewards"),
    "counters": (array(TRAJECTORY, "counters", lambda a: a[0]), "counters is of shape"),
}  # fmt: skip
PROGRAMS: dict[str, tuple[Maker, str]] = {
    "brk_start null": (there("w_meta_brk5.npz"), "header.meta.brk_start: null"),
    "brk_start negative": (header(PROGRAM, lambda h: h["meta"].update(brk_start=-4096)), "header.meta.brk_start: -4096"),
    "name a number": (header(PROGRAM, lambda h: h["meta"].update(name=1)), "header.meta.name: 1 is not a text"),
    "seed negative": (header(PROGRAM, lambda h: h.update(seed=-1)), "header.seed: -1"),
    "seed too large": (header(PROGRAM, lambda h: h.update(seed=1 << 64)), "header.seed: 18446744073709551616"),
    "seed true": (header(PROGRAM, lambda h: h.update(seed=True)), "header.seed: true"),
    "a region twice": (header(PROGRAM, lambda h: h.update(regions=["a", "a"])), "header.regions: a name stands twice"),
    "regions a text": (header(PROGRAM, lambda h: h.update(regions="a")), "header.regions: 'a' is not a list"),
    "unknown key": (header(PROGRAM, lambda h: h.update(sed=1)), "did you mean 'seed"),
    "deep meta": (header(PROGRAM, lambda h: h["meta"].update(x=json.loads("[" * 40 + "]" * 40))), f"{DEPTH_MAX} deep"),
    "two axes": (array(PROGRAM, "ops.a", lambda a: a.reshape(1, -1)), "ops.a is of shape"),
    "another checksum": (array(PROGRAM, "ops.a", lambda a: a + np.uint64(1)), "checksum"),
    "empty text": (there("empty.txt"), "there is no operation in it"),
    "negative": (there("neg.txt"), "line 1: '-1' is no number"),
    "zipf": (there("zipf.txt"), "line 2: a zipf distribution covers less than 16 TiB"),
    "long time": (written("compute 99999999999s\n", "w.txt"), "line 1: compute: .* is not from 0"),
    "endless number": (written(f"mmap a {'9' * 10_000}\n", "w.txt"), "line 1: "),
    "sum beyond": (written("mmap a 4K\nmunmap a 16777216G+16777216G 4K\n", "w.txt"), "line 2: "),
    "weight": (written("mmap a 4M\naccess a 0 4M uniform count=1 weight=4294967296\n", "w.txt"), "line 2: weight"),
    "record": (written("mmap a 4M\nreplay a:4294967296:w:1:1\n", "w.txt"), "line 2: 4294967296 is not from 0"),
    "kind of record": (written("mmap a 4M\nreplay a:1:rw:1:1\n", "w.txt"), "line 2: 'a:1:rw:1:1' is no recorded access"),
    "seed of a text": (written("seed -3\nmmap a 4K\n", "w.txt"), "line 1: -3 is not from 0"),
    "narrow island": (written("mmap a 4M\naccess a 0 4M gauss count=1 sigma=0.0000000000001\n", "w.txt"), "line 2: center"),
    "no text": (written(b"\xff\xfe\x00", "w.txt"), "byte 0: not a text"),
    "huge files": (written("mmap a 60000G at=auto file=1\nmmap b 60000G at=auto file=1\n", "w.txt"), "files of more than 256 GiB"),
}  # fmt: skip
RECORDINGS: dict[str, tuple[Maker, str]] = {
    "deep": (written(DEEP, "r.jsonl"), "line 1: not a recorded scenario: JSON that is nested"),
    "steps numbers": (there("steps_int.jsonl"), r"steps\[0\]: 1 is not an object"),
    "an empty operation": (there("op_empty.jsonl"), r"line 1: not a recorded scenario: steps\[0\]: "),
    "second line": (written('{"name": "a", "steps": []}\n[]\n', "r.jsonl"), "line 2: not a recorded scenario"),
    "nothing": (written("", "r.jsonl"), "there is no recorded scenario"),
    "a key twice among many": (written(f"{{{MANY},{MANY[-9:]}}}", "r.jsonl"), "'99999' stands twice"),
    "too many values": (written(f"[{'0,' * VALUES_MAX}0]", "r.jsonl"), f"more than {VALUES_MAX} values"),
    "NaN": (written('{"name": "a", "steps": [], "runs": NaN}\n', "r.jsonl"), "NaN"),
    "no xz": (written(b"nonsense" * 9, "r.jsonl.xz"), "damaged or not an .xz file"),
    "half an xz": (written(lzma.compress(b'{"name": "a"' * 1000)[:-20], "r.jsonl.xz"), "truncated|damaged"),
    "an xz that takes all memory": (
        written(lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]), "r.jsonl.xz"), "xz",
    ),
    "layout": (
        written(json.dumps({"name": "a", "steps": [{
            "i": 0, "op": "mmap a 16K", "err": 0, "minflt": 0, "majflt": 0, "mthp": {}, "vm": {}, "map": [{
                "p": "P", "r": "a", "rss": 0, "ahp": 0, "swap": 0, "lazy": 0, "vmas": [[0, 4, "rw-"]],
                "lay": [[3, 1 << 40, "F", 0, 0, 0, "", 1]],
            }],
        }]}), "r.jsonl"), "line 1: a: step 0: .* is no run of a layout",
    ),
}  # fmt: skip
TOML = 'algorithm = "PPO"\nworkloads = ["hot_island"]\n'
AGENTS: dict[str, tuple[Maker, str]] = {
    "a path as name": (there("t_name.toml"), "name: not a name"),
    "unknown argument": (there("t_args_unknown.toml"), "arguments: unknown argument foo"),
    "unknown environment": (there("t_env_unknown.toml"), "environment: 'nope' is none of"),
    "half an environment": (there("t_envs_float.toml"), "envs: Expected `int`"),
    "rounds": (there("t_roll_h.toml"), "hyperparameters.rounds: "),
    "seed": (there("t_seed_str.toml"), "seed: Expected `int`"),
    "unknown key": (written(TOML + "step = 5\n", "a.toml"), "unknown key 'step'; did you mean 'steps"),
    "unknown hyperparameter": (written(TOML + "[hyperparameters]\nnsteps = 5\n", "a.toml"), "did you mean 'n_steps"),
    "policy_kwargs": (written(TOML + "[hyperparameters]\npolicy_kwargs = 5\n", "a.toml"), "unknown key 'policy_kwargs'"),
    "NaN": (written(TOML + "scale = nan\n", "a.toml"), "scale: nan is not a finite number"),
    "seed negative": (written(TOML + "seed = -1\n", "a.toml"), "seed: "),
    "endless steps": (written(TOML + f"steps = {10**30}\n", "a.toml"), "steps: "),
    "no layers": (written(TOML + "net_arch = [0]\n", "a.toml"), "net_arch"),
    "a share beyond": (written(TOML + "[arguments]\nscan_share = 2\n", "a.toml"), "scan_share must be from 0 to 1"),
    "a workload too many": (written(TOML + '[arguments]\nworkload = "gups"\n', "a.toml"), "workload is set"),
    "deep": (written(f"a = {'[' * 50_000}", "a.toml"), "nested too deep|Invalid"),
    "no text": (written(b"\xff", "a.toml"), "not a text"),
    "too long": (written("a = 1\n" * 12_000, "a.toml"), "longer than 64 KiB"),
}  # fmt: skip

COMMANDS: dict[str, tuple[dict[str, tuple[Maker, str]], list[str], list[str]]] = {
    "policy": (POLICIES, ["evaluate", "--policies"], ["--suite", "ci", "--quiet", "--processes", "1"]),
    "trajectory": (TRAJECTORIES, ["replay"], []),
    "program": (PROGRAMS, ["evaluate", "--policies", "never", "--workloads"], ["--quiet", "--processes", "1"]),
    "recording": (RECORDINGS, ["conformance"], []),
    "agent": (AGENTS, ["train", "--agent"], ["--quiet"]),
}
CASES = [pytest.param(kind, name, id=f"{kind}: {name}") for kind, (table, *_) in COMMANDS.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_is_one_line_that_names_file_and_place(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    table, before, after = COMMANDS[kind]
    make, reason = table[name]
    path = make(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([*before, str(path), *after]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1, said.err
    assert str(path) in said.err
    assert re.search(reason, said.err), said.err
    assert not [p for p in (tmp_path / "here").rglob("*") if p.suffix in (".npz", ".zip")], "nothing is written"
    assert not (tmp_path.parent / "escape-0.npz").exists()


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_pipe_that_nobody_writes_to_is_not_waited_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    _, before, after = COMMANDS[kind]
    pipe = tmp_path / {"policy": "a.npz", "trajectory": "a.npz", "agent": "a.toml"}.get(kind, "a.txt")
    os.mkfifo(pipe)
    monkeypatch.setattr(reading, "WRITER_SECONDS", 0.05)
    assert main([*before, str(pipe), *after]) == 2
    assert re.search(f"{pipe}: .*(not a regular file|a pipe that nobody writes to)", capsys.readouterr().err)


def test_a_pipe_is_read_when_somebody_writes_to_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    os.mkfifo(tmp_path / "a.txt")
    writer = threading.Thread(target=lambda: (tmp_path / "a.txt").write_text("mmap a 4M\nwrite a 0 4M\n"))
    writer.start()
    assert main(["workloads", str(tmp_path / "a.txt")]) == 0
    writer.join()
    assert capsys.readouterr().out.split()[:2] == ["a", "recording"]


def test_a_name_writes_nothing_to_the_terminal_but_itself(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "\x1b[31m\n\x9b.txt").write_text("\x1b]0;x\x07 1\n")
    assert main(["workloads", str(tmp_path / "\x1b[31m\n\x9b.txt")]) == 2
    assert capsys.readouterr().err.removesuffix("\n").isprintable()


def test_an_endless_device_ends(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    link = tmp_path / "zero.txt"
    link.symlink_to("/dev/zero")
    start = time.monotonic()
    assert main(["evaluate", "--workloads", str(link), "--quiet"]) == 2
    assert "longer than 64 MiB" in capsys.readouterr().err
    assert time.monotonic() - start < 30


STORES = {
    "no object": ('{"version": "0"}\n[]\n', "line 2: it does not say what was made of what"),
    "no result": ('{"made": {}, "result": []}\n{}\n', "line 1: it does not say"),
    "deep": (f"{DEEP_OBJECT}\n", "line 1: JSON that is nested"),
    "no text": ("{\udcff", "line 1: not a text in UTF-8"),
    "a table": ("policy,reward\n", "name another --store"),
}


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_is_none_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text, reason = STORES[name]
    (tmp_path / "store.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    save = HOSTILE / "w_program.npz"
    words = ["evaluate", "--policies", "never", "64K", "--workloads", str(save), "--quiet", "--processes", "1"]
    assert main([*words, "--store", str(tmp_path / "store.jsonl")]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


def test_files_that_were_written_before_stay_readable() -> None:
    from thp_agents.learned.policy_file import load_policy
    from thp_workloads.recordings import FAMILIES, program

    from thp_env.traces import load_program

    assert all(load_policy(path).network.shape for path in shipped().values())
    assert all(len(program(name)) for name in FAMILIES)
    assert len(load_program(PROGRAM)) == 5


@pytest.mark.parametrize("text", ["{'descr': (", "{'descr': '", "(" * 200, "{'shape': 1L"])
def test_a_header_that_is_no_python_is_refused(text: str, tmp_path: Path) -> None:
    from thp_env.archive import Column, read_archive

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode())
    with pytest.raises(reading.FileError, match="the header of x is none of NumPy's"):
        read_archive(tmp_path / "a.npz", {"x": Column(("<f4",), (None,))})


def test_an_array_of_another_order_is_read_as_it_was(tmp_path: Path) -> None:
    from thp_env.archive import Column, read_archive

    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(values), y=values)
    read = read_archive(tmp_path / "a.npz", {"x": Column(("<f4",), (2, 3)), "y": Column(("f",), (None, 3))})
    assert np.array_equal(read["x"], values)
    assert np.array_equal(read["y"], arrays_of(tmp_path / "a.npz")["y"])
