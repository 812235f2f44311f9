"""Points for one submission: its functions are called in a process of their own, the answers are judged here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minidl.course import isolate
from minidl.course.assignment import Assignment, Check, Task, hidden
from minidl.course.isolate import Answer, Call, Limits

__all__ = ["UNWRITTEN", "Grade", "Result", "Submission", "grade", "submission"]

UNWRITTEN = "not written yet: put your code where it says raise NotImplementedError"
LARGEST = 1_000_000  # bytes of a submission


@dataclass(frozen=True)
class Submission:
    """What a student handed in: who, the text of the file, or why there is none."""

    student: str
    text: str
    problem: str = ""


@dataclass(frozen=True)
class Result:
    """What one check found."""

    number: str
    function: str
    check: str
    points: float
    of: int
    says: str


@dataclass(frozen=True)
class Grade:
    """All results of one student, the seconds it took, and the beginning of what the code printed."""

    student: str
    results: list[Result]
    seconds: float
    printed: str = ""

    @property
    def points(self) -> float:
        """The sum."""
        return round(sum(result.points for result in self.results), 2)

    @property
    def of(self) -> int:
        """The most that can be had."""
        return sum(result.of for result in self.results)


def submission(path: Path, file: str, student: str | None = None) -> Submission:
    """Read what lies at ``path``: the student's file, or a folder that holds it under the name ``file``.

    Args:
        path: ``alice/`` or ``alice/a2.py`` (the student is alice) or ``alice.py``.
        file: the name of the assignment's file.
        student: who it is; None: as the path says.

    Returns:
        The submission. One that cannot be read has no text and says why: it gets 0 points and stops nobody's marking.
    """
    inside = path / file if path.is_dir() else path
    name = student or (inside.absolute().parent.name if inside.name == file else inside.stem)
    try:
        if inside.is_symlink():  # it could lead to somebody else's, or to the solution
            return Submission(name, "", f"{inside.name} is a link, not a file")
        content = inside.read_bytes()
    except OSError as error:
        return Submission(name, "", f"there is no {file} to read ({error.strerror})")
    if len(content) > LARGEST:
        return Submission(name, "", f"{inside.name} has {len(content)} bytes; no solution is longer than {LARGEST}")
    return Submission(name, content.decode("utf-8-sig", "replace"))


def grade(assignment: Assignment, submitted: Submission, secret: str, limits: Limits | None = None) -> Grade:
    """Call every function of a submission in a child process, and judge what comes back.

    Args:
        assignment: the assignment.
        submitted: the submission.
        secret: with the student's name it fixes every shape, fan and seed.
        limits: of each process; there is one for each function.

    Returns:
        The grade. Nothing that the submission does raises here.
    """
    began, problem = time.monotonic(), submitted.problem
    results: list[Result] = []
    printed = ""
    for task in assignment.tasks(hidden(secret, assignment.name, submitted.student)):
        calls = list(task.calls.values())
        answers: list[Answer] = [problem] * len(calls)
        if not problem:
            outcome = isolate.call(submitted.text, assignment.file, calls, limits)
            answers, printed = outcome.answers, printed or outcome.printed
            if not outcome.loaded:
                problem = str(answers[0])  # it would fail again for every function, endless loop included
        results += _judged(task, dict(zip(task.calls, map(_fit, calls, answers), strict=True)))
    return Grade(submitted.student, results, time.monotonic() - began, printed)


def _fit(call: Call, answer: Answer) -> Answer:
    """The answer, if it has the shape that was asked for and finite values."""
    if isinstance(answer, str):
        return UNWRITTEN if answer.startswith("NotImplementedError") else answer
    if call.shape is not None and answer.shape != call.shape:
        return f"the answer has shape {answer.shape} where {call.shape} was asked for"
    return answer if np.isfinite(answer).all() else "some values are not finite"


def _judged(task: Task, answers: dict[str, Answer]) -> list[Result]:
    return [
        Result(task.number, task.function, check.name, points, check.points, says)
        for check in task.checks
        for points, says in [_points(check, [answers[key] for key in check.needs])]
    ]


def _points(check: Check, answers: list[Answer]) -> tuple[float, str]:
    for answer in answers:
        if isinstance(answer, str):
            return 0.0, answer
    verdict = check.judge(*answers)
    return round(check.points * float(verdict.share), 2), verdict.says
