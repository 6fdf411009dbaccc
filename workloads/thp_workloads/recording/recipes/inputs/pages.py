"""`pages.py N FILE`: PostScript of N pages of text and discs."""

import random
import sys
from pathlib import Path

rng = random.Random(1)
lines = ["%!PS", "/Helvetica findfont 9 scalefont setfont"]
for page in range(int(sys.argv[1])):
    for y in range(60):
        lines.append(f"40 {40 + y * 12} moveto (line {page} {y} {rng.random()}) show {rng.random()} setgray")
    for _ in range(300):
        lines.append(f"{rng.random() * 500} {rng.random() * 700} 20 0 360 arc fill")
    lines.append("showpage")
Path(sys.argv[2]).write_text("\n".join(lines) + "\n")
