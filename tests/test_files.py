"""Files are written whole or not at all, and what is no file is never replaced."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from support.full_disk import full_disk

from thp_env.files import check_writable, whole_file


def write(path: Path | str, data: bytes = b"new") -> None:
    check_writable(path)
    with whole_file(path) as file:
        file.write(data)


def test_a_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, b"old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.chmod(0o600)
    write(path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(b"half" * (1 // 0))
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_links_keep_pointing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"old")
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to(folder / "file")
    (tmp_path / "to nothing yet").symlink_to(folder / "other")
    write(tmp_path / "first")
    write(tmp_path / "to nothing yet", b"made")
    assert os.readlink(tmp_path / "first") == "second"
    assert (folder / "file").read_bytes() == b"new"
    assert (folder / "other").read_bytes() == b"made"
    assert (tmp_path / "to nothing yet").is_symlink()
    assert sorted(os.listdir(folder)) == ["file", "other"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        write(tmp_path / "loop")


def test_a_fifo_is_written_to(tmp_path: Path) -> None:
    path, read = tmp_path / "fifo", list[bytes]()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    with pytest.raises(OSError, match="nobody reads from it"):
        write(path)
    reader.start()
    with open(path, "wb"):  # waits for the reader, and keeps it
        write(path, b"x" * 100_000)  # more than a pipe holds at a time
    reader.join(10)
    assert read == [b"x" * 100_000]
    assert stat.S_ISFIFO(path.stat().st_mode)
    with pytest.raises(OSError, match="nobody reads from it"):
        write(path)


def test_a_character_device_is_written_to() -> None:
    write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write("/dev/full")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_program_can_be_saved_to_a_device() -> None:
    with whole_file("/dev/null") as file:
        np.savez_compressed(file, a=np.arange(1000))


def test_standard_output_is_written_to(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write("/dev/stdout", b"to the file that it is\n")
    assert capfd.readouterr().out == "to the file that it is\n"
    with open(tmp_path / "out", "w") as file:
        before = os.stat(file.fileno()).st_ino
        write(f"/dev/fd/{file.fileno()}")
        assert (tmp_path / "out").stat().st_ino == before
    assert (tmp_path / "out").read_bytes() == b"new"


def test_folders_and_sockets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "socket"))
        for name, what in (("folder", "a folder"), ("socket", "a socket"), (".", "a folder")):
            for refused in (check_writable, write):
                with pytest.raises(OSError, match=f"it is there and {what}"):
                    refused(tmp_path / name)
        assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)
    with pytest.raises(OSError, match="there is no folder"):
        check_writable(tmp_path / "gone" / "a")
    assert sorted(os.listdir(tmp_path)) == ["folder", "socket"]


@pytest.mark.parametrize(
    "fill",
    [lambda file: file.write(bytes(20_000)), lambda file: np.savez(file, a=np.zeros(20_000), b=np.ones(20_000))],
)
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match=r"a\.npz") as caught, full_disk(10_000), whole_file(path) as file:
        fill(file)
    assert caught.value.strerror == "File too large"
    assert os.listdir(tmp_path) == ["a.npz"]
    assert path.read_bytes() == b"old"


KILLED = """
import sys
from thp_env.files import whole_file
with whole_file(sys.argv[1]) as file:
    file.write(bytes(1 << 20))
    file.flush()
    print("written", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_is_killed_while_it_writes_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["a"]
    assert path.read_bytes() == b"old"


def test_a_file_system_without_files_that_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refuse(path: str, flags: int, *args: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        return opened(path, flags, *args)

    monkeypatch.setattr(os, "open", refuse)
    path = tmp_path / "a"
    for data in (b"first", b"second"):
        with whole_file(path) as file:
            file.write(data)
            assert len([name for name in os.listdir(tmp_path) if name.endswith(".part")]) == 1
        assert path.read_bytes() == data
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(b"half" * (1 // 0))
    assert os.listdir(tmp_path) == ["a"]
    assert path.read_bytes() == b"second"


def test_what_is_renamed_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the file is synced, then renamed, then its folder is synced."""
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(number: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else f"{os.fstat(number).st_size} bytes")
        sync(number)

    def note_replace(old: str, new: str) -> None:
        done.append("replaced")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write(tmp_path / "a", b"12345")
    assert done == ["5 bytes", "replaced", "folder"]
