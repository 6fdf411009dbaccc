"""`mariadb_load.py SOCKET N`: fills a table of N rows, updates, joins, groups and deletes, and stops the server."""

import subprocess
import sys
import time

socket, n = sys.argv[1], int(sys.argv[2])


def sql(text: str) -> int:
    """Return the client's exit status."""
    return subprocess.run(["mariadb", "-uroot", "-S", socket, "-e", text], stderr=subprocess.DEVNULL).returncode


for _ in range(600):
    if sql("select 1") == 0:
        break
    time.sleep(0.2)
sql(f"""create database t; use t; set rand_seed1 = 1, rand_seed2 = 1;
create table a(id int primary key auto_increment, k int, s varchar(200), key(k)) engine = innodb;
insert into a(k, s) select floor(rand() * {n}), repeat('x', rand() * 180) from seq_1_to_{n};
update a set s = repeat('y', 60) where k % 7 = 0;
select count(*), sum(length(b.s)) from a join a b on a.k = b.k;
select k, count(*) c from a group by k order by c desc limit 1;
delete from a where k % 3 = 0;""")
subprocess.run(["mariadb-admin", "-uroot", "-S", socket, "shutdown"], check=False)
