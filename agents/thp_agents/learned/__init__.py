"""Agents trained with Stable-Baselines3, and how they run without it."""
