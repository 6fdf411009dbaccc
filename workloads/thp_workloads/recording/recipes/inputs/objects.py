"""`objects.py N`: dictionaries, lists and strings, sorted, thinned out and filled again."""

import random
import sys

n = int(sys.argv[1])
rng = random.Random(1)
table: dict[int, object] = {i: str(rng.random()) for i in range(n)}
order = sorted(table, key=lambda i: str(table[i]))
for key in order[::3]:
    del table[key]
table.update((i + n, [i, str(i)]) for i in range(n // 3))
total = sum(len(str(table.get(rng.randrange(n), ""))) for _ in range(n))
print(len(table), total)
