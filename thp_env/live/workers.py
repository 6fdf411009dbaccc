"""The processes that run operations: `worker.cpp`, told over sockets what to do."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thp_env.live.errors import LiveError

REQUESTS = (
    "start", "mmap", "munmap", "mprotect", "mremap", "madvise", "mlock", "munlock", "prctl", "read", "write", "writez",
    "fill", "pin", "unpin", "fork", "exit", "iovec", "process_madvise", "capdrop", "place", "brk", "access",
)  # fmt: skip
"""What a worker can be asked; the position is the code in `worker.cpp`."""
REQUEST = struct.Struct("=5Q")
REPLY = struct.Struct("=4qQ")
MAX_PROCESSES = 256
TIMEOUT = 60
"""Seconds that one operation may take."""
KILLED = errno.ESRCH
"""The error of an operation whose process died: the kernel ran out of memory and chose it."""


@dataclass(frozen=True)
class Reply:
    """What one operation returned: errno or 0, the faults it took, who answered, and where something was mapped."""

    error: int
    minflt: int
    majflt: int
    pid: int
    address: int = 0


def helper(name: str = "worker") -> Path:
    """Return the program that `worker.cpp`, or another file of this folder, was built to.

    Raises:
        LiveError: when it was not built.
    """
    import thp_env.live

    for folder in thp_env.live.__path__:
        if (path := Path(folder) / name).is_file():
            return path
    raise LiveError(f"the helper thp_env/live/{name} is missing: install the package on Linux")


class Process:
    """One process of the program: its socket, pid and whether it lives."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        """Take over a process that was just made."""
        self.socket, self.pid, self.alive = connection, pid, True
        self.pidfd = os.pidfd_open(pid)

    def ask(self, request: str, address: int = 0, length: int = 0, a: int = 0, b: int = 0, data: bytes = b"") -> Reply:
        """Let the process run one operation, which `data` follows, and wait for its answer."""
        if not self.alive:
            return Reply(errno.ESRCH, 0, 0, self.pid)
        with suppress(BrokenPipeError):  # it died: there will be no answer
            self.socket.sendall(REQUEST.pack(REQUESTS.index(request), address, length, a, b))
            self.socket.sendall(data)
        ready, _, _ = select.select([self.socket.fileno(), self.pidfd], [], [], TIMEOUT)
        if not ready:
            raise LiveError(f"{request} did not end within {TIMEOUT} s")
        if self.socket.fileno() in ready and len(data := self.socket.recv(REPLY.size)) == REPLY.size:
            return Reply(*REPLY.unpack(data))
        self.alive = False
        return Reply(KILLED, 0, 0, self.pid)

    def end(self) -> None:
        """Let the process end, and wait until its memory is gone."""
        if self.alive:
            self.socket.send(REQUEST.pack(REQUESTS.index("exit"), 0, 0, 0, 0))
            self.alive = False
        select.select([self.pidfd], [], [], TIMEOUT)

    def close(self) -> None:
        """End the process, whatever it is doing: it reads the end of its socket."""
        self.socket.close()
        if not select.select([self.pidfd], [], [], 2)[0]:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            select.select([self.pidfd], [], [], TIMEOUT)
        os.close(self.pidfd)


class Workers:
    """The processes of one run of a program that have not exited, by name; the first exists from the start."""

    def __init__(self, name: str) -> None:
        """Make the first process; it waits for `start`."""
        pairs = [socket.socketpair() for _ in range(MAX_PROCESSES)]
        self._connections, self._child_fds = [pair[0] for pair in pairs], [pair[1].fileno() for pair in pairs]
        self._first = subprocess.Popen([helper(), "run", str(self._child_fds[0])], pass_fds=self._child_fds)
        for _, child_end in pairs:
            child_end.close()
        self.processes = {name: Process(self._connections[0], self._first.pid)}
        self._forks = 0

    def bury(self, killed: int) -> None:
        """Wait until so many processes that the kernel has killed, while they waited, are gone."""
        living = [process for process in self.processes.values() if process.alive]
        for _ in range(killed):
            readable = select.select([process.pidfd for process in living], [], [], TIMEOUT)[0]
            for process in living:
                process.alive = process.pidfd not in readable
            living = [process for process in living if process.alive]

    def fork(self, parent: Process, name: str) -> int:
        """Fork a process; return the errno."""
        number = self._forks + 1
        if number == MAX_PROCESSES:
            raise LiveError(f"a program can have {MAX_PROCESSES} processes, those that have exited among them")
        reply = parent.ask("fork", a=self._child_fds[number])
        if reply.error == 0:
            connection = self._connections[number]
            connection.recv(REPLY.size)  # the child has locked its memory, too
            self.processes[name] = Process(connection, reply.pid)
            self._forks = number
        return reply.error

    def exit(self, name: str) -> int:
        """End a process; return the errno. One that was killed stays known."""
        process = self.processes.get(name)
        if process is None:
            return errno.ESRCH
        if process.alive:
            process.end()
            del self.processes[name]
            process.close()
        return 0

    def close(self) -> None:
        """End all processes."""
        for process in reversed(self.processes.values()):
            process.close()
        for connection in self._connections:
            connection.close()
        self._first.wait()


class Guard:
    """A process that keeps khugepaged's list from being empty, and empties the LRU's batches."""

    def __init__(self) -> None:
        """Start it, and wait until it is on the list."""
        self._socket, child_end = socket.socketpair()
        self._process = subprocess.Popen([helper(), "guard", str(child_end.fileno())], pass_fds=[child_end.fileno()])
        child_end.close()
        self._socket.recv(1)

    def drain(self) -> None:
        """Empty all CPUs' batches of pages on their way to an LRU (lru_add_drain_all)."""
        self._socket.send(b"\0")
        if error := self._socket.recv(1)[0]:
            raise LiveError(f"the LRU's batches cannot be emptied: {os.strerror(error)}")

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait()
