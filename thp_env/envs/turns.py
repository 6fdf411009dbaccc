"""Threads that share an environment: one acts at a time, and others may look between two steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import gymnasium


class _Acting:
    """Holds an environment for a call that changes it."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def __enter__(self) -> None:
        me = threading.get_ident()
        if not self.turns.actor.acquire(blocking=False):
            if self.turns.actor_thread == me:
                raise gymnasium.error.Error("the environment is stepping: step() and reset() cannot call each other")
            raise gymnasium.error.Error(
                "another thread is stepping this environment: give every thread an environment of its own"
            )
        self.turns.actor_thread = me
        self.turns.looking.acquire()

    def __exit__(self, *error: object) -> None:
        self.turns.looking.release()
        self.turns.actor_thread = 0
        self.turns.actor.release()


class Turns:
    """Whose turn it is.

    Attributes:
        acting: for calls that change the environment: a second thread is refused.
        looking: for calls that only look: they wait for the end of the step that is under way.
    """

    def __init__(self) -> None:
        """It is nobody's turn."""
        self.actor, self.looking, self.actor_thread = threading.Lock(), threading.RLock(), 0
        self.acting = _Acting(self)

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        """Return what makes a fresh one: locks are not copied."""
        return Turns, ()
