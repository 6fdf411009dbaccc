"""`alignments.py N FILE`: N alignments of 150 bases, with qualities and an error, to a random chromosome, unsorted."""

import random
import sys
from pathlib import Path

n, length = int(sys.argv[1]), 4_000_000
rng = random.Random(1)
genome = "".join(rng.choices("ACGT", k=length))
qualities = "".join(rng.choices("#,:F", (1, 3, 12, 84), k=1 << 16))
with Path(sys.argv[2]).open("w") as file:
    file.write(f"@HD\tVN:1.6\tSO:unsorted\n@SQ\tSN:c\tLN:{length}\n")
    for k in range(n):
        at, wrong, first = rng.randrange(length - 150), rng.randrange(150), rng.randrange((1 << 16) - 150)
        read = genome[at : at + wrong] + "N" + genome[at + wrong + 1 : at + 150]
        where = f"r{k}\t{16 * (k & 1)}\tc\t{at + 1}\t60\t150M\t*\t0\t0"
        file.write(f"{where}\t{read}\t{qualities[first : first + 150]}\tNM:i:1\tAS:i:296\n")
