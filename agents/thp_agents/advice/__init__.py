"""Advice for a real program: which settings of its host it gains from; see docs/guides/advice.md."""
