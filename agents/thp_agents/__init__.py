"""Policies that choose folio sizes: heuristics, learned agents, and the evaluation that compares them."""
