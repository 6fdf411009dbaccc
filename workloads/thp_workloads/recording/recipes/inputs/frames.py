"""`frames.py N`: data frames of N rows grouped, merged, sorted and pivoted."""

import sys

import numpy as np
import pandas as pd

n = int(sys.argv[1])
rng = np.random.default_rng(1)
d = pd.DataFrame({"k": rng.integers(0, n // 10 + 1, n), "g": rng.choice(["aa", "bb", "cc", "dd"], n),
                  "x": rng.random(n), "y": rng.random(n)})  # fmt: skip
e = d.groupby(["k", "g"]).agg({"x": "sum", "y": "mean"}).reset_index()
m = d.merge(e, on=["k", "g"]).sort_values(["g", "x_x"])
p = m.pivot_table(index="k", columns="g", values="x_y")
print(p.shape, m.y_x.rolling(50).mean().sum())
