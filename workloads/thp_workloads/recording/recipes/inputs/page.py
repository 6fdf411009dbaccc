"""`page.py N FILE`: a page of HTML with a table of N rows, styles, and a script that adds N paragraphs."""

import random
import sys
from pathlib import Path

n = int(sys.argv[1])
rng = random.Random(1)
rows = "".join(f"<tr><td>{i}<td style='color:#{rng.randrange(1 << 24):06x}'>{rng.random()}<td><b>{i * i}</b></tr>"
               for i in range(n))  # fmt: skip
Path(sys.argv[2]).write_text(f"""<html><body><table border=1>{rows}</table><div id=d></div><script>
var d = document.getElementById('d'), m = {{}};
for (var i = 0; i < {n}; i++) {{ var e = document.createElement('p'); e.textContent = 'row ' + i + ' ' + Math.sqrt(i);
  e.style.color = 'rgb(' + i % 255 + ',0,0)'; d.appendChild(e); }}
for (var i = 0; i < {n} * 30; i++) m['k' + i % 50000] = {{a: [i]}};
</script></body></html>
""")
