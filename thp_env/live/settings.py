"""Settings of this host for the time of a run: written down before they change, and put back afterwards.

    with temporary_settings({"enabled": "madvise", "hugepages-64kB/enabled": "madvise"}) as settings:
        settings.write("hugepages-2048kB/enabled", "never")
        ...

What is to be undone stands in a journal (`journal`) before anything changes: `restore` puts it back after a run that
was killed. One run at a time changes settings (`LOCK`).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from thp_env.files import whole_file
from thp_env.live.errors import LiveError
from thp_env.reading import FileError, parse_json, read_text
from thp_env.schema import Bounds, fit
from thp_env.signals import Terminated, handle_signals, hold_signals

THP = Path("/sys/kernel/mm/transparent_hugepage")
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")
ZRAM = Path("/sys/class/zram-control")
LOCK = Path("/run/thp-env.lock")
"""Held by the run that changes settings; says where its journal is."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
ROOTS = (Path("/sys/kernel/mm"), Path("/proc/sys/vm"), Path("/sys/fs/cgroup"))
"""Where settings may lie."""
PR_SET_THP_DISABLE, PR_GET_THP_DISABLE = 41, 42
CHOSEN = re.compile(r"\[(\S+)\]")

_libc = ctypes.CDLL(None, use_errno=True)


class Undo(TypedDict):
    """One thing to put back: a value to write to a file, a control group or zram device to remove, a nice value."""

    kind: Literal["write", "cgroup", "zram", "nice"]
    name: Annotated[str, Bounds(1, 4096, "length")]
    value: Annotated[str, Bounds(0, 4096, "length")]


class Journal(TypedDict):
    """What is written down: since which start of the host it holds, and what is to be undone, the last first."""

    boot: str
    undo: list[Undo]


def journal() -> Path:
    """Return where the journal of this user's runs stands."""
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if state.startswith("/") else Path.home() / ".local/state"
    return home / "thp-env/settings.json"


def read(path: Path) -> str:
    """Return what a file of the kernel is set to; of `always [madvise] never` the chosen word."""
    text = path.read_text().strip()
    match = CHOSEN.search(text)
    return match[1] if match else text


def write(path: Path, value: str) -> int:
    """Write a value to a file of the kernel; return the errno."""
    try:
        path.write_text(value)
    except OSError as error:
        return error.errno or 1
    return 0


def wait(done: Callable[[], bool], seconds: float = 5) -> bool:
    """Wait until something holds; return whether it does."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def thp_disable(disable: int, flags: int = 0) -> None:
    """Call prctl(PR_SET_THP_DISABLE) for this process; what it starts inherits it.

    Raises:
        LiveError: when the kernel refuses, such as flags before Linux 6.18.
    """
    if _libc.prctl(PR_SET_THP_DISABLE, disable, flags, 0, 0):
        raise LiveError(f"prctl(PR_SET_THP_DISABLE, {disable}, {flags}): {os.strerror(ctypes.get_errno())}")


class Settings:
    """What a run has changed. Use `temporary_settings()`."""

    def __init__(self, path: Path | None) -> None:
        """Begin a journal; without one nothing of the whole host can be changed."""
        self.path = path
        self._undo: list[Undo] = []
        self._written: set[Path] = set()

    def write(self, name: str | Path, value: str) -> int:
        """Change a setting; return the errno.

        Args:
            name: a file below /sys/kernel/mm/transparent_hugepage, or an absolute path below one of `ROOTS`.
            value: what to write.
        """
        return self.write_all({name: value})

    def write_all(self, values: Mapping[str | Path, str]) -> int:
        """Change several settings; return the first errno.

        Raises:
            LiveError: for a path that is no setting; nothing has changed then.
        """
        paths = {(THP / name).resolve(): value for name, value in values.items()}
        earlier: list[Undo] = []
        for path in paths.keys() - self._written:
            if not _allowed(path):
                raise LiveError(f"{path} is no setting: name one below {', '.join(map(str, ROOTS))}")
            if path.exists():
                earlier.append({"kind": "write", "name": str(path), "value": read(path)})
        self.remember(*earlier)
        self._written |= paths.keys()
        return next((error for path, value in paths.items() if (error := write(path, value))), 0)

    def require(self, values: Mapping[str | Path, str]) -> None:
        """Change several settings.

        Raises:
            LiveError: naming the one that cannot be changed, and why.
        """
        for name, value in values.items():
            if error := self.write(name, value):
                why = "only root may" if error in (errno.EACCES, errno.EPERM) else os.strerror(error)
                raise LiveError(f"cannot write {value!r} to {THP / name}: {why}")

    def cgroup(self, name: str) -> Path:
        """Make a control group of the memory controller, which is removed in the end; return its folder.

        Raises:
            LiveError: when it cannot be made.
        """
        folder = MEMORY_CGROUPS / name
        if not _allowed(folder):
            raise LiveError(f"{name!r} is no name of a control group")
        if not any(undo["name"] == str(folder) for undo in self._undo):
            self.remember({"kind": "cgroup", "name": str(folder), "value": ""})
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise LiveError(f"cannot make the control group {folder}: {error.strerror}") from None
        return folder

    def nice(self, thread: int, name: str, value: int) -> None:
        """Let a thread of the kernel run with a priority; `name` finds it again, whatever its number is then."""
        undo: Undo = {"kind": "nice", "name": name, "value": str(os.getpriority(os.PRIO_PROCESS, thread))}
        if not any(entry["kind"] == "nice" and entry["name"] == name for entry in self._undo):
            self.remember(undo)
        os.setpriority(os.PRIO_PROCESS, thread, value)

    def remember(self, *undo: Undo) -> None:
        """Write down what will have to be undone; call it before it is done."""
        if undo:
            if self.path is None:
                raise LiveError("nothing of the whole host is changed in this run")
            self._undo += undo
            self._save(self.path)

    def forget(self, kind: str, name: str) -> None:
        """Strike out what has been undone."""
        self._undo = [undo for undo in self._undo if (undo["kind"], undo["name"]) != (kind, name)]
        if self.path is not None:
            self._save(self.path)

    def _save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _store(path, {"boot": _boot(), "undo": self._undo})

    def end(self) -> None:
        """Put everything back, whatever signal comes meanwhile.

        Raises:
            LiveError: when something cannot be put back, which it names.
        """
        with hold_signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if self.path is not None and self.path.exists():
                _put_back(self.path)


def _boot() -> str:
    return BOOT.read_text().strip()


def _store(path: Path, content: Journal) -> None:
    with whole_file(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")


def _allowed(path: Path) -> bool:
    plain = path.is_absolute() and ".." not in path.parts and "\0" not in str(path)
    return plain and any(root in path.parents for root in ROOTS)


def thread_of_kernel(name: str) -> int:
    """Return the number of a thread of the kernel, 0 where there is none."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if path.read_text() == f"{name}\n":
                return int(path.parent.name)
    return 0


def remove_folder(folder: Path) -> bool:
    """Remove a control group as soon as its processes are gone; return whether it is."""

    def removed() -> bool:
        with suppress(FileNotFoundError, OSError):
            folder.rmdir()
        return not folder.exists()

    return wait(removed)


def remove_zram(device: str) -> bool:
    """Swap off and remove a zram device; return whether it is gone."""
    if not Path(f"/sys/block/zram{device}").exists():
        return True
    _libc.swapoff(f"/dev/zram{device}".encode())
    write(Path(f"/sys/block/zram{device}/reset"), "1")
    return write(ZRAM / "hot_remove", device) == 0


def _undo_one(undo: Undo) -> bool:
    kind, name, value = undo["kind"], undo["name"], undo["value"]
    if kind == "zram":
        return remove_zram(name)
    if kind == "nice":
        if thread := thread_of_kernel(name):
            os.setpriority(os.PRIO_PROCESS, thread, int(value))
        return True
    if kind == "cgroup":
        return remove_folder(Path(name))
    return not Path(name).exists() or write(Path(name), value) == 0


def _load(path: Path) -> Journal:
    try:
        content: Any = parse_json(read_text(path))
        fit(content, Journal, "journal")
        for undo in content["undo"]:
            path_like = undo["kind"] in ("write", "cgroup")
            if path_like and not _allowed(Path(undo["name"])):
                raise FileError(f"{undo['name']} is no setting")
            if undo["kind"] == "zram" and not undo["name"].isdecimal():
                raise FileError(f"{undo['name']!r} is no zram device")
            if undo["kind"] == "nice" and not re.fullmatch(r"-?\d{1,2}", undo["value"]):
                raise FileError(f"{undo['value']!r} is no priority")
    except FileError as error:
        raise LiveError(f"{path}: not a journal of settings: {error}") from None
    except OSError as error:
        raise LiveError(f"{path}: cannot be read: {error.strerror}") from None
    return content


def _put_back(path: Path) -> None:
    """Undo what a journal says, the last first; it stays, with the rest, where something cannot be undone."""
    content = _load(path)
    if content["boot"] == _boot():  # else the host has started again, which put everything back
        failures = [undo for undo in reversed(content["undo"]) if not _undo_one(undo)]
        if failures:
            _store(path, {**content, "undo": failures[::-1]})
            names = ", ".join(undo["name"] for undo in failures)
            raise LiveError(f"cannot put back {names}: see {path}, and run thp-env live --restore as root")
    path.unlink(missing_ok=True)


@contextmanager
def _locked() -> Iterator[Path | None]:
    """Hold the lock; yield the journal that a killed run has left, if there is one."""
    try:
        lock = open(LOCK, "a+")  # noqa: SIM115 -- closed below
    except OSError as error:
        raise LiveError(f"only root can change this host's settings ({LOCK}: {error.strerror}): use sudo") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LiveError("another live run is under way on this host: wait until it has ended") from None
        lock.seek(0)
        other_journal = Path(lock.read(4096).strip())
        leftover = next((path for path in (journal(), other_journal) if path.is_absolute() and path.is_file()), None)
        if leftover is None:
            lock.truncate(0)
            lock.write(f"{journal()}\n")
            lock.flush()
        yield leftover


def restore() -> bool:
    """Put back what a killed run had changed; False when there is nothing to put back.

    Raises:
        LiveError: when a run is under way, or something cannot be put back, which it names.
    """
    with _locked() as leftover:
        if leftover is not None:
            _put_back(leftover)
        return leftover is not None


@contextmanager
def temporary_settings(
    values: Mapping[str | Path, str] | None = None, *, disable: tuple[int, int] | None = None
) -> Iterator[Settings]:
    """Change settings for the block, and put all back after it, also after ctrl-C, SIGTERM or SIGHUP.

    Args:
        values: files below /sys/kernel/mm/transparent_hugepage (or absolute paths below `ROOTS`) and what to write.
            None: nothing of the whole host will change, which needs neither root nor the lock.
        disable: (disable, flags) of prctl(PR_SET_THP_DISABLE) for this process and what it starts.

    Yields:
        What changes more settings.

    Raises:
        LiveError: without root; while another run is under way; after one that was killed; when a setting cannot be
            changed. Nothing stays changed then.
    """
    with ExitStack() as stack:
        if values is not None and (journal_file := stack.enter_context(_locked())):
            raise LiveError(f"an earlier run was killed ({journal_file}): "
                            "put its settings back with thp-env live --restore")  # fmt: skip
        stack.enter_context(handle_signals(dict.fromkeys((signal.SIGTERM, signal.SIGHUP), _terminate)))
        settings = Settings(None if values is None else journal())
        stack.callback(settings.end)
        if disable is not None:
            stack.callback(thp_disable, *thp_disabled())
            thp_disable(*disable)
        if values:
            settings.require(values)
        yield settings


def thp_disabled() -> tuple[int, int]:
    """Return (disabled, flags) of this process, as prctl(PR_GET_THP_DISABLE) says."""
    flags = _libc.prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0)
    return (1, flags & ~1) if flags > 0 else (0, 0)


def _terminate(number: int, frame: object) -> None:
    raise Terminated
