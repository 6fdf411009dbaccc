"""`redis_load.py SOCKET N [snapshot]`: fills a server with N values, reads and replaces them at random.

Then it deletes most of them and fills the server with larger ones. With `snapshot` it has the values saved by a forked
child instead, three times, and replaces half of them meanwhile. Last it stops the server.
"""

import random
import socket
import sys
import time
from collections.abc import Iterable
from itertools import islice

path, n = sys.argv[1], int(sys.argv[2])
rng = random.Random(1)
noise = rng.randbytes(1 << 20)


def connect() -> socket.socket:
    """Wait for the server."""
    for _ in range(600):
        try:
            found = socket.socket(socket.AF_UNIX)
            found.connect(path)
            return found
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server does not answer")


server = connect()


def command(*words: bytes) -> bytes:
    """Return a command as the protocol has it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def value(size: int) -> bytes:
    """Draw a value."""
    at = rng.randrange(len(noise) - size)
    return noise[at : at + size]


def ask(commands: Iterable[bytes]) -> None:
    """Send commands 256 at a time; a PING behind them marks the end of the answers."""
    left = iter(commands)
    while some := b"".join(islice(left, 256)):
        server.sendall(some + command(b"PING"))
        tail = b""
        while not tail.endswith(b"+PONG\r\n"):
            data = server.recv(1 << 20)
            if not data:
                raise SystemExit("the server went away")
            tail = (tail + data)[-16:]


def read(count: int) -> None:
    """Read values drawn at random."""
    ask(command(b"GET", rng.choice(keys)) for _ in range(count))


def write(count: int) -> None:
    """Replace values drawn at random by others of another size."""
    ask(command(b"SET", rng.choice(keys), value(rng.randrange(500, 5000))) for _ in range(count))


def wait_until_saved() -> None:
    """Ask again and again whether the child is done."""
    while True:
        server.sendall(command(b"INFO", b"persistence"))
        answer = b""
        while b"rdb_bgsave_in_progress:" not in answer or not answer.endswith(b"\r\n"):
            answer += server.recv(1 << 16)
        if b"rdb_bgsave_in_progress:0" in answer:
            return
        time.sleep(0.2)


keys = [b"user:%d" % i for i in range(n)]
ask(command(b"SET", key, value(rng.randrange(500, 5000))) for key in keys)
if "snapshot" in sys.argv:
    for _ in range(3):
        read(4 * n)
        ask([command(b"BGSAVE")])
        write(n // 2)
        wait_until_saved()
else:
    for _ in range(3):
        read(4 * n)
        write(n // 4)
    rng.shuffle(keys)
    ask(command(b"DEL", *keys[i : i + 8]) for i in range(0, n * 7 // 10, 8))
    ask(command(b"SET", b"file:%d" % i, value(rng.randrange(10_000, 30_000))) for i in range(n // 10))
    keys = keys[n * 7 // 10 :]
    read(n)
server.sendall(command(b"SHUTDOWN", b"NOSAVE"))
