"""`site.py N FOLDER`: a web site of N pages with tags, for Hugo."""

import random
import sys
from pathlib import Path

n, folder = int(sys.argv[1]), Path(sys.argv[2])
rng = random.Random(1)
words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(2, 10))) for _ in range(5000)]
(folder / "content/p").mkdir(parents=True)
(folder / "layouts/_default").mkdir(parents=True)
(folder / "config.toml").write_text('baseURL = "http://x/"\ntitle = "t"\n[taxonomies]\ntag = "tags"\n')
(folder / "layouts/_default/single.html").write_text(
    '<h1>{{.Title}}</h1>{{.Content}}{{range first 5 .Site.RegularPages.ByDate}}<a href="{{.Permalink}}">{{.Title}}</a>'
    "{{end}}"
)
(folder / "layouts/_default/list.html").write_text("{{range .Pages}}<li>{{.Title}} {{.Summary}}</li>{{end}}")
for i in range(n):
    lines = [" ".join(rng.choices(words, k=8)) for _ in range(24)]
    head = f'---\ntitle: "{lines[0][:40]}"\ndate: 2020-01-{i % 28 + 1:02d}\ntags: ["a{i % 50}", "b{i % 7}"]\n---\n'
    body = "\n\n".join(f"## {a}\n* {b} **b** `c`" for a, b in zip(lines[::2], lines[1::2], strict=True))
    (folder / f"content/p/{i}.md").write_text(head + body)
