"""From the one source of an assignment to what a student gets: the same file without its solutions, and how to begin.

In the source, ``### BEGIN SOLUTION`` and ``### END SOLUTION`` stand around each solution, indented like it. The student
finds ``raise NotImplementedError`` there instead, and the lines that begin with ``### HINT:``.
"""

from __future__ import annotations

import ast
from pathlib import Path

from minidl import files
from minidl.course.assignment import Assignment

__all__ = ["source", "without_solutions", "write"]

BEGIN, END, HINT = "### BEGIN SOLUTION", "### END SOLUTION", "### HINT:"

HOW = """
## How to work on it

Write your code into `{file}`: wherever it says `raise NotImplementedError`, this line goes. That takes NumPy alone; to
check it, install minidl too, as your teacher tells you (or from its repository). Then, in this folder:

    python -m minidl course check

It calls your functions as the grader will, with other shapes, fans and seeds, and says what is wrong. There are
{points} points. Hand in `{file}` and nothing else.
"""


def source(assignment: Assignment) -> str:
    """The source with its solutions, as it came with minidl."""
    return (files.folder("lessons") / "assignments" / assignment.file).read_text(encoding="utf-8")


def without_solutions(text: str) -> str:
    """The source as a student gets it.

    Raises:
        ValueError: a region is not closed, or opened inside another; or what is left is not Python.
    """
    lines: list[str] = []
    opened = 0  # the line where the region began
    for number, line in enumerate(text.splitlines(), 1):
        mark = line.strip()
        if mark in (BEGIN, END) and bool(opened) != (mark == END):
            raise ValueError(
                f"line {number}: {mark}, but {f'line {opened} began a region' if opened else 'none is open'}"
            )
        if mark == BEGIN:
            opened = number
        elif mark == END:
            opened = 0
            lines.append(line[: line.index("#")] + "raise NotImplementedError")
        elif not opened:
            lines.append(line)
        elif mark.startswith(HINT):
            lines.append(line.replace(HINT, "# Hint:"))
    if opened:
        raise ValueError(f"line {opened}: this solution has no {END}")
    student = "\n".join(lines) + "\n"
    ast.parse(student)
    return student


def write(assignment: Assignment, folder: Path) -> list[Path]:
    """Write the student's file and a README into a new or empty folder.

    Returns:
        The paths of the two files.

    Raises:
        FileExistsError: there is something in the folder already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: a hand-out goes into a new folder")
    student = without_solutions(source(assignment))
    title, _, about = (ast.get_docstring(ast.parse(student)) or "").replace("``", "`").partition("\n")
    readme = f"# {title.rstrip('.')}\n{about}\n" + HOW.format(file=assignment.file, points=assignment.points)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {folder / assignment.file: student, folder / "README.md": readme}
    for path, text in contents.items():
        path.write_text(text, encoding="utf-8")
    return list(contents)
