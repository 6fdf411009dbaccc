"""`history.py N`: a git repository of N files in four versions."""

import random
import subprocess
import sys
from pathlib import Path

rng = random.Random(1)
n = int(sys.argv[1])
words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(2, 10))) for _ in range(20_000)]


def git(*arguments: str) -> None:
    """Run git."""
    subprocess.run(["git", "-c", "user.email=a@b", "-c", "user.name=a", *arguments], check=True)


git("init", "-q", ".")
texts = [[" ".join(rng.choices(words, k=10)) for _ in range(rng.randrange(20, 4000))] for _ in range(n)]
for version in range(4):
    for i, text in enumerate(texts):
        for _ in range(len(text) // 20):
            text[rng.randrange(len(text))] = " ".join(rng.choices(words, k=10))
        Path(f"{i}.txt").write_text("\n".join(text))
    git("add", ".")
    git("commit", "-qm", str(version))
