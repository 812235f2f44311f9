"""Every command and every Python block of the README and of docs/ runs as printed, in a folder like a fresh clone.

A fenced block is marked by a comment in the line before it, which a reader of the page does not see::

    <!-- long -->               takes too long: only checked for valid options; also: network, windows, gpu
    <!-- torch -->              runs where PyTorch is installed (`make oracle`)
    <!-- exit 1 -->             the exit code of its commands, where it is not 0; several: one for each command
    <!-- in FOLDER -->          where it runs; FOLDER is inside the page's temporary folder
    <!-- file NAME -->          no command: the text of a file, which all pages find in their folder
    <!-- before: COMMANDS -->   lines in the block's own language, to run before it; they may go over several lines

Several stand side by side with commas; ``before`` has a comment of its own. Commands in the running text and in tables
are not marked: those of ``FAMILIES`` are only checked. The commands of a page run in order in one folder, its Python
blocks in one namespace. A command in the running text that has run on a page before, or in any block, does not again.

*Four in five run* is asked of what is there to be typed: fenced blocks, and tables that begin with a command. What a
sentence mentions (`make evidence`, `minidl compare --preset article`) runs where it is quick, and is counted apart.

Left out are pages that a script writes, because their own tests hold them to what the script writes: the gallery
(test_figures.py), the passports (test_passport.py), the results. So are the diffs of ``docs/adding.md``, which
test_adding.py applies.

``MINIDL_DOCS_PYTHON`` names another interpreter to run it with: `make release-check` does so with an installed wheel.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from minidl import cli, data
from minidl.experiment.advice import EXPERIMENTS
from minidl.experiment.grid import initializer
from minidl.experiment.presets import PRESETS

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md"] if (ROOT / "README.md").is_file() else []
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
pytestmark = [
    pytest.mark.host("commands run in processes of their own"),
    pytest.mark.skipif(len(PAGES) < 2, reason="the docs are not part of an installation"),
]

KEPT = ("long", "network", "windows", "gpu")  # marks of what is only checked
SHARE = 0.8

#: Commands that are only checked wherever they stand: mark -> how they begin.
FAMILIES = {
    "windows": r"py -m |.*\\",
    "network": r"source |python3? -m venv |pip |\.venv/bin/python -m pip |minidl data get |.*--data mnist|"
    r"minidl data show cifar10",
    "long": r"make (?!run$)|\.venv/bin/python -m (?!minidl)|.*--preset|.*--resume FOLDER|minidl bench$|bash |"
    r"python -m (benchmarks|pytest$)|python (benchmarks|docs|tests)/",
}
#: What a reader puts in place of a word in capitals: (as printed, as tried).
FILLED = (
    ("init show NAME", "init show he_normal"),
    ("--preset NAME", "--preset article"),
    ("make.py NAME", "make.py article"),
    ("data get NAME", "data get mnist"),
    (" [N]", ""),
    ("lesson N", "lesson 1"),
    ("FOLDER", "folder"),
    ("FILE.py:", "my_model.py:"),  # docs/diagnose.md shows it
    ("A2 DIR", "A2 folder"),
)
#: In a sentence these are names, not something to type; in a table or a block they would not run.
NAMES = re.compile(r"python -m minidl|minidl (data|diagnose|init|course( (handout|check|grade))?)")
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:minidl|python3?|make|pip|py|bash|source|export|\.venv\S+) \S")
SHELLS = ("", "sh", "bash", "console")


@dataclass(frozen=True)
class Step:
    """One command, or one Python block."""

    page: str
    line: int
    kind: str  # "python" or "command"
    text: str
    marks: tuple[str, ...] = ()
    place: str = "text"  # "block" or "table": there to be typed; "text": mentioned in a sentence; "file": a line of one
    block: int = 0  # the line where its block begins
    code: int = 0
    folder: str = "."
    before: tuple[str, ...] = ()

    @property
    def quick(self) -> bool:
        return not set(self.marks) & {*KEPT, "torch"}

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text.splitlines()[0] if self.kind == 'command' else 'Python'}"


@dataclass(frozen=True)
class Page:
    """What a page has: its steps, in order, and the files that it shows."""

    name: str
    steps: list[Step]
    files: dict[str, str]


BLOCK = re.compile(r"((?:^<!--(?:(?!-->)[\s\S])*-->\n+)*)^```(\S*)[^\n]*\n([\s\S]*?)^```$", re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")


def read(name: str, text: str) -> Page:
    """The steps and files of a page of Markdown."""
    steps, files = [], {}
    for found in BLOCK.finditer(text):
        marks, before, words = _marks(found[1])
        line = text.count("\n", 0, found.start(3)) + 1
        if "file" in words:
            files[words["file"]] = found[3]
            lines = _commands(found[3]) if found[2] in SHELLS else ()
            steps += [
                Step(name, line + at, "command", each, ("long",), "file") for at, each in lines if "minidl " in each
            ]
        elif found[2] == "python" or (found[2] in SHELLS and COMMAND.match(found[3])):
            steps += _block(name, line, found[2], found[3], marks, before, words)
    prose = BLOCK.sub(lambda found: "\n" * found[0].count("\n"), text)
    for found in INLINE.finditer(prose):
        command = " ".join(found[1].split())
        line = prose.count("\n", 0, found.start()) + 1
        typed = re.match(r"\| `[^|]*", prose.splitlines()[line - 1])
        where = "table" if typed and found[0] in typed[0] else "text"
        if COMMAND.match(command) and (where == "table" or not NAMES.fullmatch(command)):
            steps.append(Step(name, line, "command", command, _family(command), where, line))
    return Page(name, sorted(steps, key=lambda step: step.line), files)


def _marks(comments: str) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """The comments before a block as (bare marks, what runs before, marks with a word behind them)."""
    marks, before, words = [], [], {}
    for comment in re.findall(r"<!--([\s\S]*?)-->", comments):
        if comment.strip().startswith("before:"):
            before.append(comment.strip().removeprefix("before:").strip())
            continue
        for mark in comment.split(","):
            first, _, rest = mark.strip().partition(" ")
            assert (first in (*KEPT, "torch") and not rest) or (first in ("exit", "in", "file") and rest), mark
            marks.append(first)
            words[first] = rest
    return tuple(mark for mark in marks if mark in (*KEPT, "torch")), tuple(before), words


def _block(name, line, language, text, marks, before, words) -> Iterator[Step]:
    place = {"place": "block", "block": line, "folder": words.get("in", ".")}
    if language == "python":
        yield Step(name, line, "python", text, marks, before=before, **place)
        return
    commands = list(_commands(text))
    codes = [int(code) for code in words.get("exit", "0").split()]
    codes = codes * len(commands) if len(codes) == 1 else codes
    assert len(codes) == len(commands), f"{name}:{line}: {len(commands)} commands, {len(codes)} exit codes"
    for (offset, command), code in zip(commands, codes, strict=True):
        own = tuple(dict.fromkeys((*marks, *_family(command))))
        yield Step(name, line + offset, "command", command, own, code=code, before=before, **place)
        before = ()


def _commands(text: str) -> Iterator[tuple[int, str]]:
    """Line number and text of each command; a backslash at the end of a line joins it with the next."""
    joined, start = "", 0
    for number, line in enumerate(text.splitlines()):
        line = re.sub(r"(^|\s+)# .*$", "", line).strip()
        joined, start = (joined + line, start) if joined else (line, number)
        if joined.endswith("\\"):
            joined = joined[:-1]
        elif joined:
            yield start, joined
            joined = ""


def _family(command: str) -> tuple[str, ...]:
    bare = re.sub(r"^([A-Z_]+=\S+ )+", "", command)
    return tuple(mark for mark, beginning in FAMILIES.items() if re.match(beginning, bare))[:1]


def filled(command: str) -> str:
    """The command with a reader's words in place of NAME, N and FOLDER."""
    for printed, tried in FILLED:
        command = command.replace(printed, tried)
    return command


def canonical(command: str) -> str:
    """One name for commands that do the same."""
    if command == "make run":
        return "minidl compare"
    return filled(command).removeprefix(".venv/bin/").replace("python -m minidl", "minidl")


def chosen(pages: list[Page]) -> list[Step]:
    """The steps that run: all that are quick, but none of the running text twice, and the long comparison once."""
    quick = [step for page in pages for step in page.steps if step.quick]
    ran, found = set(), []
    for step in sorted(quick, key=lambda step: step.place != "block"):
        name = canonical(step.text)
        if name in ran and (step.place != "block" or name == "minidl compare"):
            continue
        ran.add(name)
        found.append(step)
    return sorted(found, key=lambda step: (PAGES.index(step.page), step.line))


# --------------------------------------------------------------------------------------------------- what only exists


def check(step: Step) -> None:
    """A command that is not run has an existing program, existing options and existing names."""
    if step.kind == "python":
        compile(step.text, step.page, "exec")
        return
    words = shlex.split(filled(step.text).replace("\\", "/"))
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    match [word.replace(".venv/bin/", "").replace(".venv/Scripts/", "") for word in words]:
        case ["minidl", *rest] | ["python" | "python3" | "py", "-m", "minidl", *rest]:
            _check_minidl(rest)
        case ["make", *rest]:
            _check_make(rest)
        case ["python" | "python3" | "py", "-m", "pip", *rest] | ["pip", *rest]:
            _check_pip(rest)
        case [_, "-m", "venv" | "ruff" | "mypy" | "pytest", *_] | ["source" | "export", *_]:
            pass  # other people's programs
        case ["python", "-m", module, *rest]:
            _check_script(ROOT / module.replace(".", "/"), rest)
        case ["python" | "bash", script, *rest]:
            _check_script(ROOT / script, rest)
        case _:
            raise AssertionError("no program that this test knows: give it a case in check()")


def _check_minidl(words: list[str]) -> None:
    try:
        args = cli.parser().parse_args(words)
    except SystemExit as error:
        raise AssertionError("minidl does not know these arguments") from error
    if words[0] == "compare":
        assert args.preset is None or args.preset in PRESETS
        assert set(args.data or []) <= set(data.names())
        for scheme in args.schemes or []:
            initializer(scheme)
    if words[0] == "lesson" and args.number is not None:
        assert args.number in [each.number for each in cli.lessons()]


def _check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, _ = word.partition("=")
        known = f"$({name})" in makefile if is_variable else re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE)
        assert known, f"the Makefile has no {name}"


def _check_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert words[0] == "install"
    for named in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert set(named.split(",")) <= set(extras), named


def _check_script(path: Path, words: list[str]) -> None:
    """The file is there, and its text, or that of its package, has every option and every experiment's name."""
    sources = sorted(path.glob("*.py")) if path.is_dir() else [path if path.suffix else path.with_suffix(".py")]
    assert sources and all(source.is_file() for source in sources), path
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    for word in words:
        assert not word.startswith("-") or f'"{word}"' in text, f"{path.name} has no option {word}"
    if path.name == "advice.py":
        assert set(words) <= set(EXPERIMENTS)


# ----------------------------------------------------------------------------------------------------- what really runs

#: Runs the steps of one page in one process, so that NumPy is imported once; ends at the first that goes wrong.
DRIVER = r"""
import glob, json, os, shlex, subprocess, sys, traceback
from minidl import cli

def python(step):
    try:
        exec(compile("\n" * (step["line"] - 1) + step["text"], step["page"], "exec"), names)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

def command(step):
    words = shlex.split(step["text"])
    if words[0] == "export":
        os.environ.update(word.split("=", 1) for word in words[1:])
        return 0
    if words[0] != "minidl" and words[:3] != ["python", "-m", "minidl"]:
        return subprocess.run(step["text"], shell=True).returncode
    words = words[1:] if words[0] == "minidl" else words[3:]
    words = [each for word in words for each in (sorted(glob.glob(word)) if "*" in word else [word])]
    try:
        return cli.main(words)
    except SystemExit as error:
        return error.code

names, here = {"__name__": "__page__"}, os.getcwd()
for step in json.load(open(sys.argv[1], encoding="utf-8")):
    print("==", step["name"], flush=True)
    for lines in step["before"]:
        if step["kind"] == "python":
            exec(lines, names)
        else:
            subprocess.run(lines, shell=True, check=True)
    os.chdir(os.path.join(here, step["folder"]))
    code = python(step) if step["kind"] == "python" else command(step)
    sys.stdout.flush()
    os.chdir(here)
    if code != step["code"]:
        sys.exit(f"{step['name']}\nended with {code} and not with {step['code']}")
"""
#: What belongs to a clone, and cannot run beside an installed wheel.
OF_THE_CLONE = re.compile(r"make |.*python -m pytest|[\s\S]*import strict")


def run(steps: list[Step], files: dict[str, str], folder: Path, other: str | None = None) -> str:
    """Run steps of one page in a folder like a fresh clone whose environment is made; the answer is what went wrong.

    Args:
        steps: what to run, in order.
        files: the files that pages show, name -> text.
        folder: an empty folder.
        other: an interpreter that has minidl installed: then the folder holds no clone, and what needs one is left out.
    """
    python = other or sys.executable
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    bin = folder / ".venv" / "bin"
    bin.mkdir(parents=True)
    for program, words in {"python": "", "minidl": "-m minidl "}.items():
        (bin / program).write_text(f'#!/bin/sh\nexec "{python}" {words}"$@"\n', encoding="utf-8")
        (bin / program).chmod(0o755)
    inherited = {"PYTHONPATH", "MINIDL_TEST_BACKEND", "MINIDL_BACKEND", "MINIDL_FAST"}
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    environment |= {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    environment["PATH"] = f"{bin}{os.pathsep}{environment['PATH']}"
    if other:
        steps = [step for step in steps if not OF_THE_CLONE.match("".join((*step.before, step.text)))]
    else:
        for entry in CLONE:
            (folder / entry).symlink_to(ROOT / entry)
        for stamp in ("run.stamp", "test.stamp"):
            (folder / ".venv" / stamp).touch()
        environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    tried = [asdict(step) | {"name": str(step), "text": filled(step.text)} for step in steps]
    (folder / ".venv" / "steps.json").write_text(json.dumps(tried), encoding="utf-8")
    command = [python, "-c", DRIVER, str(folder / ".venv" / "steps.json")]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    return "" if done.returncode == 0 else f"{done.stdout[-4000:]}"


CLONE = ("minidl", "datasets", "lessons", "benchmarks", "tests", "docs", "Makefile", "pyproject.toml", "README.md")
READ = {name: read(name, (ROOT / name).read_text(encoding="utf-8")) for name in PAGES}
STEPS = [step for page in READ.values() for step in page.steps]
FILES = {name: text for page in READ.values() for name, text in page.files.items()}
CHOSEN = chosen(list(READ.values()))


@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="the blocks are written for a POSIX shell")
@pytest.mark.parametrize("name", sorted({step.page for step in CHOSEN}))
def test_what_a_page_prints_runs(name, tmp_path):
    steps = [step for step in CHOSEN if step.page == name]
    went_wrong = run(steps, FILES, tmp_path, os.environ.get("MINIDL_DOCS_PYTHON"))
    assert not went_wrong, went_wrong


@pytest.mark.oracle
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted({step.page for step in STEPS if "torch" in step.marks}))
def test_the_pytorch_blocks_of_a_page_run(name, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed here; `make oracle` runs these blocks")
    steps = [step for step in READ[name].steps if step.kind == "python" and not set(step.marks) & set(KEPT)]
    went_wrong = run(steps, FILES, tmp_path)
    assert not went_wrong, went_wrong


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_command_exists_with_its_options(step):
    check(step)


def places(steps: list[Step]) -> dict[tuple[str, int], list[Step]]:
    """The steps by the block, or by the line of a table, that they stand in."""
    found: dict[tuple[str, int], list[Step]] = {}
    for step in steps:
        found.setdefault((step.page, step.block), []).append(step)
    return found


def test_four_in_five_of_the_blocks_and_tables_really_run(capsys):
    asked = [step for step in STEPS if not set(step.marks) & {"windows", "gpu"}]
    typed = places([step for step in asked if step.place in ("block", "table")])
    running = [where for where, steps in typed.items() if not any(set(step.marks) & set(KEPT) for step in steps)]
    kept = {where: steps[0] for where, steps in typed.items() if where not in running}
    mentioned = {canonical(step.text): step.quick for step in asked if step.place == "text"}
    with capsys.disabled():
        print(f"\ndocs: {len(running)} of {len(typed)} blocks and lines of tables run;", end=" ")
        print(f"of {len(mentioned)} commands in sentences {sum(mentioned.values())}; {len(CHOSEN)} steps in all")
    assert len(running) >= SHARE * len(typed), "only checked: " + "; ".join(map(str, kept.values()))


# -------------------------------------------------------------------------------------------- faults that are planted


@pytest.mark.parametrize(
    "command",
    [
        "minidl variance --activaton relu",
        "minidl lesson 99",
        "minidl data lits",
        "minidl compare --preset articel",
        'minidl compare --data mnist --schemes He "normal(sdt=0.05)"',
        "python -m benchmarks W3 --ruonds 6",
        "python docs/results/advice.py warm-strat",
        "python docs/nowhere.py",
        "make tset",
        'make test ARG="-k pool"',
        'pip install "minidl[iu]"',
    ],
)
@pytest.mark.parametrize("page", ["Now try `{}`.", "<!-- long -->\n```\n{}\n```\n", "| `{}` | a line of a table |"])
def test_a_misspelt_command_is_caught(command, page):
    (step,) = read("page.md", page.format(command)).steps
    with pytest.raises((AssertionError, ValueError)):
        check(step)


def test_a_python_block_that_raises_is_caught_with_its_line_on_the_page(tmp_path):
    page = read(
        "page.md", "Title\n\n```python\nx = 1\n```\n\nand then\n\n```python\nassert x == 1\nassert x == 2\n```\n"
    )
    went_wrong = run(page.steps, page.files, tmp_path)
    assert 'File "page.md", line 11' in went_wrong and "AssertionError" in went_wrong


@pytest.mark.parametrize("mark", ["", "<!-- exit 1 0 -->\n", "<!-- exit 4 -->\n"])
def test_an_exit_code_that_is_not_the_one_marked_is_caught(mark, tmp_path):
    page = read("page.md", mark + "```sh\nminidl lesson\nminidl diagnose nowhere.py:make_model\n```\n")
    assert "and not with" in run(page.steps, page.files, tmp_path)
