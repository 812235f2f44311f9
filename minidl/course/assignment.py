"""What an assignment is: tasks, the calls they make of the student's functions, the checks that judge the answers."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minidl.course.isolate import Call

__all__ = ["Array", "Assignment", "Check", "Draw", "Task", "Verdict", "hidden"]

Array: TypeAlias = NDArray[Any]

#: What is hidden: the name of a task → the generator of its shapes, fans and seeds.
Draw: TypeAlias = Callable[[str], np.random.Generator]


class Verdict(NamedTuple):
    """The share of a check's points, 0 to 1, and what to tell the student."""

    share: float
    says: str


@dataclass(frozen=True)
class Check:
    """One thing that is examined.

    Args:
        name: short, "spread".
        points: what it is worth.
        needs: the keys of the task's calls whose answers it judges.
        judge: those answers, in that order → verdict. They have the shapes that were asked for and are finite.
    """

    name: str
    points: int
    needs: tuple[str, ...]
    judge: Callable[..., Verdict]


@dataclass(frozen=True)
class Task:
    """One function to write: its number ("A2.1"), its name, the calls that are made of it, the checks."""

    number: str
    function: str
    calls: dict[str, Call]
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Assignment:
    """An assignment: its name, the student's file, and its tasks with everything hidden drawn."""

    name: str
    file: str
    tasks: Callable[[Draw], list[Task]]

    @property
    def points(self) -> int:
        """The most that can be had."""
        return sum(check.points for task in self.tasks(hidden("", "", "")) for check in task.checks)


def hidden(secret: str, assignment: str, student: str) -> Draw:
    """Generators that only the secret can foretell: each from HMAC-SHA256 of the assignment, the student and the task.

    The same secret and student give the same numbers again, so a mark can be looked into later.
    """

    def draw(task: str) -> np.random.Generator:
        message = "\0".join((assignment, student, task)).encode()
        return np.random.default_rng(int.from_bytes(hmac.digest(secret.encode(), message, "sha256")))

    return draw
