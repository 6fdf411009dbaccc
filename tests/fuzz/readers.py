"""Fuzzes the readers of files with atheris: `python tests/fuzz/readers.py TARGET [libFuzzer's options] CORPUS`.

A reader may refuse a file by its own error and by no other; a mutation of bytes alone would hardly get past the zip's
checksums, so archives are also put together from a header or an array that is mutated and a file that is right.
"""

from __future__ import annotations

import gc
import io
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FunctionType

import atheris
import numpy as np
from thp_agents.learned.config import load_config
from thp_agents.learned.policy_file import load_policy
from thp_agents.policy import PolicyError
from thp_workloads.importing import KINDS, ImportingError, read

from thp_env.envs.trajectory import Trajectory, TrajectoryError
from thp_env.recording_file import RecordingFileError, read_recordings
from thp_env.traces import ProgramError, load_program, parse_program
from thp_env.workload import memory_for

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
WATCHED = ("thp_env", "thp_agents", "thp_workloads", "zipfile", "tomllib", "msgspec")
"""Modules whose branches guide the fuzzer. The editable install's finder does not go through atheris's import hook."""

FILE = Path(tempfile.mkdtemp(prefix="fuzz-")) / "file"


def in_file(data: bytes, suffix: str) -> Path:
    """Write the one file that readers are given."""
    path = FILE.with_suffix(suffix)
    path.write_bytes(data)
    return path


def archive(data: bytes, good: Path) -> bytes:
    """Return an archive: of the bytes alone, or a right one with another header or array."""
    provider = atheris.FuzzedDataProvider(data)
    how = provider.ConsumeIntInRange(0, 3)
    if how == 0:
        return provider.ConsumeBytes(len(data))
    with zipfile.ZipFile(good) as source:
        members = {name: source.read(name) for name in source.namelist()}
    if how == 1:
        header = np.frombuffer(provider.ConsumeBytes(len(data)), np.uint8)
        members["header.npy"] = npy(header)
    elif how == 2:
        name = provider.PickValueInList(sorted(members))
        members[name] = provider.ConsumeBytes(len(data))
    else:
        name = provider.PickValueInList(sorted(members))
        dtype = provider.PickValueInList(["<u1", "<u2", "<u4", "<u8", "<i8", "<f4", "<f8", "|b1"])
        axes = [provider.ConsumeIntInRange(0, 5) for _ in range(provider.ConsumeIntInRange(0, 2))]
        values = provider.ConsumeBytes(int(np.prod(axes)) * np.dtype(dtype).itemsize)
        array = np.zeros(axes, dtype)
        array.reshape(-1).view(np.uint8)[: len(values)] = np.frombuffer(values, np.uint8)
        members[name] = npy(array)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        for name, content in members.items():
            out.writestr(name, content)
    return packed.getvalue()


def npy(array: np.ndarray) -> bytes:
    """Return an array as a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def text(data: bytes) -> None:
    """Text programs."""
    with suppress(ProgramError):
        memory_for(parse_program(data.decode(errors="replace")))


def program(data: bytes) -> None:
    """Programs in .npz files."""
    with suppress(ProgramError):
        memory_for(load_program(in_file(archive(data, DATA / "hostile" / "w_program.npz"), ".npz")))


def policy(data: bytes) -> None:
    """Policies."""
    with suppress(PolicyError):
        made = load_policy(in_file(archive(data, TRAINED / "bandit-0.npz"), ".npz"))
        made.network({"seen": np.zeros(made.network.shape[0], np.float32)})


def trajectory(data: bytes) -> None:
    """Trajectories."""
    with suppress(TrajectoryError):
        Trajectory.load(in_file(archive(data, DATA / "hostile" / "seed_neg.npz"), ".npz"))


def recording(data: bytes) -> None:
    """Recordings of a kernel, packed or not."""
    with suppress(RecordingFileError):
        for suffix in (".jsonl", ".jsonl.xz"):
            list(read_recordings(in_file(data, suffix)))


def agent(data: bytes) -> None:
    """Agents' TOML files."""
    with suppress(PolicyError):
        load_config(str(in_file(data, ".toml")))


def logs(data: bytes) -> None:
    """Logs of other tools; the first byte says of which."""
    if data:
        with suppress(ImportingError):
            read(list(KINDS)[data[0] % len(KINDS)], in_file(data[1:], ".txt"))


TRAINED = ROOT / "agents" / "thp_agents" / "learned" / "trained"
TARGETS: dict[str, tuple[Callable[[bytes], None], list[Path]]] = {
    "text": (text, [*DATA.glob("hostile/*.txt")]),
    "program": (program, [*DATA.glob("hostile/w_*.npz")]),
    "policy": (policy, [TRAINED / "bandit-0.npz", *DATA.glob("hostile/p_*.npz")]),
    "trajectory": (trajectory, [*DATA.glob("hostile/*_*.npz")]),
    "recording": (recording, [*DATA.glob("hostile/*.jsonl")]),
    "agent": (agent, [*DATA.glob("hostile/*.toml")]),
    "logs": (logs, [*DATA.glob("imports/forms/*.txt"), *DATA.glob("imports/*.txt")]),
}
"""Each target, and the files that its corpus begins with."""


def seed(target: str, corpus: Path) -> None:
    """Fill a corpus with files of the target's own, as the target takes them."""
    corpus.mkdir(parents=True, exist_ok=True)
    for path in TARGETS[target][1]:
        data = path.read_bytes()[: 1 << 14]
        if target == "logs":
            kind = next((i for i, kind in enumerate(KINDS) if kind in path.name or kind[:4] == path.name[:4]), 0)
            data = bytes([kind]) + data
        (corpus / path.name).write_bytes(data + b"\0" * (path.suffix == ".npz"))
        if path.suffix == ".npz" and target != "logs":
            with zipfile.ZipFile(path) as source:
                header = source.read("header.npy")[128:].lstrip()
            # What a provider takes integers from stands at the end.
            (corpus / f"{path.name}.header").write_bytes(header + b"\1")
    if target == "text":
        page = ROOT / "docs" / "reference" / "trace_programs.md"
        for number, line in enumerate(page.read_text().split("```")[1::2]):
            (corpus / f"docs{number}").write_text(line)


if __name__ == "__main__":
    target, *options = sys.argv[1:]
    corpus = next((Path(option) for option in options if not option.startswith("-")), None)
    if corpus is not None:
        seed(target, corpus)
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and str(function.__module__).startswith(WATCHED):
            atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], *options], TARGETS[target][0])
    warnings.simplefilter("ignore")
    atheris.Fuzz()
