"""`genome.py N READS NAME`: a random genome of N bases as NAME.fa, and reads of 150 bases with errors as NAME.fq."""

import random
import sys
from pathlib import Path

n, number, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = random.Random(1)
genome = "".join(rng.choices("ACGT", k=n))
Path(f"{name}.fa").write_text(">c\n" + "\n".join(genome[i : i + 70] for i in range(0, n, 70)) + "\n")
with Path(f"{name}.fq").open("w") as reads:
    for k in range(number):
        at = rng.randrange(n - 200)
        read = list(genome[at : at + 150])
        for _ in range(3):
            read[rng.randrange(150)] = rng.choice("ACGT")
        reads.write(f"@r{k}\n{''.join(read)}\n+\n{'I' * 150}\n")
