"""`redis_load.py SOCKET N [snapshot]`: fills a server with N values, deletes most of them, fills it with larger ones.

With `snapshot` it has the values saved by a forked child instead, and overwrites half of them meanwhile. Then it stops
the server.
"""

import random
import socket
import sys
import time

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


def ask(commands: list[bytes]) -> None:
    """Send commands 256 at a time; a PING behind them marks the end of the answers."""
    for i in range(0, len(commands), 256):
        server.sendall(b"".join(commands[i : i + 256]) + command(b"PING"))
        tail = b""
        while not tail.endswith(b"+PONG\r\n"):
            data = server.recv(1 << 20)
            if not data:
                raise SystemExit("the server went away")
            tail = (tail + data)[-16:]


keys = [b"user:%d" % i for i in range(n)]
ask([command(b"SET", key, value(rng.randrange(500, 5000))) for key in keys])
ask([command(b"GET", rng.choice(keys)) for _ in range(n // 2)])
if "snapshot" in sys.argv:
    ask([command(b"BGSAVE")])
    ask([command(b"SET", key, value(rng.randrange(500, 5000))) for key in rng.sample(keys, n // 2)])
    waited = command(b"INFO", b"persistence")
    while True:
        server.sendall(waited)
        answer = b""
        while b"rdb_bgsave_in_progress:" not in answer or not answer.endswith(b"\r\n"):
            answer += server.recv(1 << 16)
        if b"rdb_bgsave_in_progress:0" in answer:
            break
        time.sleep(0.2)
else:
    rng.shuffle(keys)
    ask([command(b"DEL", *keys[i : i + 8]) for i in range(0, n * 7 // 10, 8)])
    ask([command(b"SET", b"file:%d" % i, value(rng.randrange(10_000, 30_000))) for i in range(n // 10)])
    ask([command(b"GET", rng.choice(keys[n * 7 // 10 :])) for _ in range(n // 2)])
server.sendall(command(b"SHUTDOWN", b"NOSAVE"))
