"""`memcached_load.py PORT N`: N sets and N / 2 gets over one connection, then stops the server."""

import random
import socket
import sys
import time

port, n = int(sys.argv[1]), int(sys.argv[2])
rng = random.Random(1)
for _ in range(600):
    try:
        server = socket.create_connection(("127.0.0.1", port))
        break
    except ConnectionRefusedError:
        time.sleep(0.2)
answers = server.makefile("rb")
for _ in range(0, n, 200):
    request = b""
    for _ in range(200):
        value = b"x" * rng.randrange(20, 1200)
        request += b"set k%d 0 0 %d noreply\r\n%b\r\n" % (rng.randrange(n // 2), len(value), value)
    request += b"".join(b"get k%d\r\n" % rng.randrange(n // 2) for _ in range(100))
    server.sendall(request)
    ends = 0
    while ends < 100:
        line = answers.readline()
        if line.startswith(b"VALUE"):
            answers.readline()
        ends += line.startswith(b"END")
server.sendall(b"shutdown\r\n")
