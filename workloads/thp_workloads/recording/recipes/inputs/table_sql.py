"""`table_sql.py N FILE`: SQL that fills a table of N rows with an index, updates a quarter and deletes a third."""

import random
import sys
from pathlib import Path

n = int(sys.argv[1])
rng = random.Random(1)
lines = ["CREATE TABLE t(id INTEGER PRIMARY KEY, k INT, s TEXT);", "CREATE INDEX i ON t(k);", "BEGIN;"]
for i in range(n):
    lines.append(f"INSERT INTO t VALUES({i}, {rng.randrange(n)}, '{'x' * rng.randrange(20, 200)}');")
for _ in range(n // 4):
    lines.append(f"UPDATE t SET s = '{'y' * rng.randrange(300)}' WHERE k = {rng.randrange(n)};")
lines += ["DELETE FROM t WHERE id % 3 = 0;", "SELECT count(*), sum(length(s)) FROM t;", "COMMIT;"]
lines.append("SELECT count(*) FROM (SELECT s, count(*) c FROM t GROUP BY s ORDER BY c DESC);")
Path(sys.argv[2]).write_text("\n".join(lines))
