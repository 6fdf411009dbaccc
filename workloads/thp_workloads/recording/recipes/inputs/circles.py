"""`circles.py N FILE`: SVG of N translucent circles and a blurred rectangle."""

import random
import sys
from pathlib import Path

rng = random.Random(1)
lines = ['<svg xmlns="http://www.w3.org/2000/svg" width="1000" height="1000"><defs><filter id="f">'
         '<feGaussianBlur stdDeviation="8"/></filter></defs>']  # fmt: skip
for _ in range(int(sys.argv[1])):
    x, y, r = rng.random() * 1000, rng.random() * 1000, rng.random() * 30
    lines.append(f'<circle cx="{x}" cy="{y}" r="{r}" fill="#{rng.randrange(1 << 24):06x}" opacity=".5"/>')
lines.append('<rect width="900" height="900" filter="url(#f)" fill="red" opacity=".3"/></svg>')
Path(sys.argv[2]).write_text("\n".join(lines))
