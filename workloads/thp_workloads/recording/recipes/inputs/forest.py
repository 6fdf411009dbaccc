"""`forest.py N`: a random forest of ten trees on N rows, and a tree of neighbours."""

import sys

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KDTree

n = int(sys.argv[1])
rng = np.random.default_rng(1)
x = rng.random((n, 30))
y = (x[:, 0] * x[:, 1] > x[:, 2] * 0.5).astype(int)
print(RandomForestClassifier(10, n_jobs=1, random_state=1).fit(x, y).score(x[:1000], y[:1000]))
print(KDTree(x[:, :5]).query(x[: n // 10, :5], k=5)[0].sum())
