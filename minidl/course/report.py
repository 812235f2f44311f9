"""Grades as text, as CSV, and as the ``results.json`` that Gradescope reads."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from minidl.course.grade import UNWRITTEN, Grade
from minidl.text import table

__all__ = ["csv_text", "feedback", "gradescope", "summary"]


def feedback(grade: Grade) -> str:
    """For the student: the points of every function, what to mend, what the code printed, where to begin."""
    remarks: dict[str, list[str]] = {}
    for r in grade.results:
        if r.points < r.of:
            remarks.setdefault(r.says, []).append(r.function if r.says == UNWRITTEN else f"{r.function} ({r.check})")
    mend = [f"{', '.join(dict.fromkeys(where))}: {says}" for says, where in remarks.items()]
    if len(remarks) == 1 and grade.points == 0:
        mend = list(remarks)  # one reason for everything
    parts = [table(_by_task(grade)), f"{grade.points:g} of {grade.of} points"]
    parts += [textwrap.fill(each, 100, subsequent_indent="    ") for each in mend]
    parts += ["It printed:\n" + textwrap.indent(grade.printed, "    ")] if grade.printed else []
    if list(remarks) == [UNWRITTEN] and grade.points == 0:
        parts.append(f"Nothing is written yet, so everything can still be won. Begin with {grade.results[0].function}.")
    return "\n\n".join(parts)


def summary(grades: Sequence[Grade]) -> str:
    """For the teacher: one line per student, one column per task."""
    return table(
        {"student": g.student, "points": f"{g.points:g}", "of": g.of} | {t["task"]: t["points"] for t in _by_task(g)}
        for g in grades
    )


def _by_task(grade: Grade) -> list[dict[str, Any]]:
    rows = []
    for (number, function), group in groupby(grade.results, lambda r: (r.number, r.function)):
        results = list(group)
        points, of = sum(r.points for r in results), sum(r.of for r in results)
        rows.append({"task": number, "function": function, "points": f"{points:g}", "of": of})
    return rows


def csv_text(grades: Sequence[Grade]) -> str:
    """One line per student, one column per check."""
    rows = [
        {"student": _cell(g.student), "points": g.points, "of": g.of}
        | {f"{r.number} {r.function} {r.check}": r.points for r in g.results}
        for g in grades
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cell(name: str) -> str:
    """A name that a spreadsheet cannot take for a formula."""
    return f"'{name}" if name[:1] in "=+-@" else name


def gradescope(grade: Grade) -> dict[str, Any]:
    """The document that a Gradescope autograder leaves in ``results/results.json``; every test is visible."""
    tests = [
        {
            "number": f"{r.number}.{i}",
            "name": f"{r.function}: {r.check}",
            "score": r.points,
            "max_score": r.of,
            "status": "passed" if r.points == r.of else "failed",
            "output": r.says or "right",
            "output_format": "text",
            "visibility": "visible",
        }
        for i, r in enumerate(grade.results, 1)
    ]
    return {
        "score": grade.points,
        "execution_time": round(grade.seconds, 2),
        "output": f"{grade.points:g} of {grade.of} points",
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    }
