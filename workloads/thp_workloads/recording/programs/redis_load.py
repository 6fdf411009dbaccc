"""Loads a Redis server on loopback: fills it, deletes most of it at random, fills it with larger values, asks."""

import random
import socket
import sys
import time

PORT = int(sys.argv[1])
SMALL, LARGE, ASKED = 18_000, 260, 6_000
PIPELINE = 16

rng = random.Random(1)
noise = rng.randbytes(1 << 20)


def connect() -> socket.socket:
    """Wait for the server."""
    for _ in range(600):
        try:
            return socket.create_connection(("127.0.0.1", PORT))
        except ConnectionRefusedError:
            time.sleep(0.2)
    raise SystemExit("the server does not answer")


def command(*words: bytes) -> bytes:
    """Return a command as the protocol has it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def value(size: int) -> bytes:
    """Draw a value."""
    at = rng.randrange(len(noise) - size)
    return noise[at : at + size]


def ask(server: socket.socket, commands: list[bytes], replies: int) -> None:
    """Send commands in batches and wait until each batch is answered; a PING behind it marks its end."""
    for i in range(0, len(commands), replies):
        server.sendall(b"".join(commands[i : i + replies]) + command(b"PING"))
        tail = b""
        while not tail.endswith(b"+PONG\r\n"):
            data = server.recv(1 << 20)
            if not data:
                raise SystemExit("the server went away")
            tail = (tail + data)[-16:]


def main() -> None:
    """Run all phases and stop the server."""
    server = connect()
    keys = [b"user:%d" % i for i in range(SMALL)]
    ask(server, [command(b"SET", key, value(rng.randrange(3000, 5200))) for key in keys], PIPELINE)
    ask(server, [command(b"GET", rng.choice(keys)) for _ in range(ASKED)], PIPELINE)
    rng.shuffle(keys)
    deleted, kept = keys[: SMALL * 7 // 10], keys[SMALL * 7 // 10 :]
    ask(server, [command(b"DEL", *deleted[i : i + 8]) for i in range(0, len(deleted), 8)], PIPELINE)
    ask(server, [command(b"SET", b"file:%d" % i, value(rng.randrange(100_000, 300_000))) for i in range(LARGE)], 1)
    ask(server, [command(b"GET", rng.choice(kept)) for _ in range(ASKED)], PIPELINE)
    server.sendall(command(b"SHUTDOWN", b"NOSAVE"))
    server.recv(1)


main()
