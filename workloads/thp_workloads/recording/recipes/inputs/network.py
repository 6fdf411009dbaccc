"""`network.py N`: a graph of N nodes as dictionaries of CPython: components, cores, distances, triangles."""

import sys

import networkx as nx

g = nx.barabasi_albert_graph(int(sys.argv[1]), 8, seed=1)
print(len(list(nx.connected_components(g))), max(nx.core_number(g).values()))
print(max(nx.single_source_shortest_path_length(g, 0).values()), sum(nx.triangles(g).values()))
