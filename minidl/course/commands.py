"""``minidl course handout ASSIGNMENT DIR | check [ASSIGNMENT DIR] | grade ASSIGNMENT SUBMISSION...``."""

from __future__ import annotations

import argparse
import glob
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from minidl import files
from minidl.course import handout, report
from minidl.course.a2 import A2
from minidl.course.assignment import Assignment
from minidl.course.grade import Grade, Submission, grade, submission
from minidl.course.isolate import Limits
from minidl.text import progress, to_json, unknown

__all__ = ["ASSIGNMENTS", "run"]

DONE, FINDING = 0, 1
ASSIGNMENTS = {each.name: each for each in (A2,)}
SECRET = "MINIDL_COURSE_SECRET"
PRACTICE = "practice"  # the secret and the student of `course check`: everybody may know its numbers

Printer = Callable[..., None] | None


def run(args: argparse.Namespace, print_json: Callable[..., None]) -> int:
    """Do it.

    Args:
        args: the parsed arguments: action, assignment, paths, secret, student, seconds, out, json, quiet.
        print_json: prints a schema's name and its content as one JSON document, for ``--json``.

    Returns:
        The exit code: 0 done, 1 a check failed or a submission did not get all points.

    Raises:
        ValueError: an unknown assignment, too few paths, no secret, two submissions of one student.
        FileExistsError: the folder for the hand-out is not empty.
        FileNotFoundError: a submission that is named does not exist.
    """
    action = {"handout": _handout, "check": _check, "grade": _grade}[args.action]
    return action(args, print_json if args.json else None)


def _assignment(name: str | None) -> Assignment:
    if name is None or name.upper() not in ASSIGNMENTS:
        raise unknown("assignment", name, ASSIGNMENTS)
    return ASSIGNMENTS[name.upper()]


def _handout(args: argparse.Namespace, print_json: Printer) -> int:
    assignment = _assignment(args.assignment)
    if len(args.paths) != 1:
        raise ValueError(f"minidl course handout {assignment.name} needs one folder to write to")
    written = handout.write(assignment, Path(args.paths[0]))
    if print_json:
        print_json("course-handout", assignment=assignment.name, files=[str(path) for path in written])
    else:
        print("\n".join(map(str, written)))
        if not args.quiet:
            print("\nin this folder, the student checks the work with: python -m minidl course check")
    return DONE


def _check(args: argparse.Namespace, print_json: Printer) -> int:
    """The student's own look: practice numbers, everything said."""
    folder = Path(args.paths[0] if args.paths else ".")
    assignment = _assignment(args.assignment or _found(folder))
    found = grade(assignment, submission(folder, assignment.file, PRACTICE), PRACTICE, Limits(args.seconds))
    if print_json:
        print_json("course-check", assignment=assignment.name, **_record(found))
    else:
        print(report.feedback(found))
    return DONE if found.points == found.of else FINDING


def _found(folder: Path) -> str:
    """The assignment whose file lies in the folder."""
    for each in ASSIGNMENTS.values():
        if (folder / each.file).is_file():
            return each.name
    known = ", ".join(each.file for each in ASSIGNMENTS.values())
    raise ValueError(f"no assignment lies in {folder.resolve()} ({known}); go to the folder of the hand-out")


def _grade(args: argparse.Namespace, print_json: Printer) -> int:
    """Every submission, one after the other; each leaves its feedback at once."""
    assignment = _assignment(args.assignment)
    secret = args.secret or os.environ.get(SECRET)
    if not secret:
        raise ValueError(f"grading needs the course's secret: pass --secret, or set {SECRET}")
    submitted = _submissions(args, assignment)
    folder = files.run_folder(args.out, f"course-{assignment.name}")
    grades = []
    for each in progress(submitted, label="grading"):
        grades.append(grade(assignment, each, secret, Limits(args.seconds)))
        _write(folder, grades[-1])
    (folder / "grades.csv").write_text(report.csv_text(grades), encoding="utf-8")
    if print_json:
        print_json("course-grade", assignment=assignment.name, folder=str(folder), grades=[_record(g) for g in grades])
    else:
        print(report.summary(grades))
        if not args.quiet:
            print(f"\ngrades, feedback and Gradescope files: {folder}")
    return DONE if all(each.points == each.of for each in grades) else FINDING


def _submissions(args: argparse.Namespace, assignment: Assignment) -> list[Submission]:
    if not args.paths or (args.student and len(args.paths) > 1):
        raise ValueError("name the submissions, files or folders; --student goes with a single one")
    paths = [path for name in args.paths for path in _expanded(name)]
    found = [submission(Path(path), assignment.file, args.student) for path in paths]
    twice = [name for name, count in Counter(_file_name(each.student) for each in found).items() if count > 1]
    if twice:
        raise ValueError(f"two submissions of {', '.join(twice)}: give every student a folder of its own")
    return found


def _expanded(name: str) -> list[str]:
    """The paths that ``submissions/*`` stands for where the shell leaves that to us, as on Windows."""
    paths = [name] if os.path.lexists(name) else sorted(glob.glob(name))
    if not paths:
        raise FileNotFoundError(f"there is no {name}: name the submissions, files or folders")
    return paths


def _write(folder: Path, found: Grade) -> None:
    name = _file_name(found.student)
    (folder / f"{name}.txt").write_text(report.feedback(found) + "\n", encoding="utf-8")
    (folder / f"{name}.json").write_text(to_json(report.gradescope(found)), encoding="utf-8")


def _file_name(student: str) -> str:
    return re.sub(r"[^\w.@-]", "_", student)


def _record(found: Grade) -> dict[str, object]:
    return {
        "student": found.student,
        "points": found.points,
        "of": found.of,
        "results": list(map(asdict, found.results)),
    }
