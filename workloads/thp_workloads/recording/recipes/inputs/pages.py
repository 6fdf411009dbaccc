"""`pages.py N FILE`: PostScript of N pages of text and discs, of several sizes."""

import random
import sys
from pathlib import Path

rng = random.Random(1)
lines = ["%!PS"]
for page in range(int(sys.argv[1])):
    wide, high = rng.choice([(420, 595), (595, 842), (842, 1191)])
    lines.append(f"<< /PageSize [{wide} {high}] >> setpagedevice /Helvetica findfont 9 scalefont setfont")
    for y in range(high // 14):
        lines.append(f"40 {40 + y * 12} moveto (line {page} {y} {rng.random()}) show {rng.random()} setgray")
    for _ in range(300):
        lines.append(f"{rng.random() * wide} {rng.random() * high} 20 0 360 arc fill")
    lines.append("showpage")
Path(sys.argv[2]).write_text("\n".join(lines) + "\n")
