"""`memcached_load.py SOCKET N`: N sets and N / 2 gets over one connection, then stops the server."""

import random
import socket
import sys
import time

path, n = sys.argv[1], int(sys.argv[2])
rng = random.Random(1)
for _ in range(600):
    try:
        server = socket.socket(socket.AF_UNIX)
        server.connect(path)
        break
    except OSError:
        time.sleep(0.2)
answers = server.makefile("rb")
for _ in range(0, n, 2000):
    request = b""
    for _ in range(2000):
        value = b"x" * rng.randrange(20, 1200)
        request += b"set k%d 0 0 %d noreply\r\n%b\r\n" % (rng.randrange(n // 2), len(value), value)
    request += b"".join(b"get k%d\r\n" % rng.randrange(n // 2) for _ in range(1000))
    server.sendall(request)
    ends = 0
    while ends < 1000:
        line = answers.readline()
        if line.startswith(b"VALUE"):
            answers.readline()
        ends += line.startswith(b"END")
server.sendall(b"shutdown\r\n")
