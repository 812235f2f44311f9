"""Every lesson runs by its command from another directory, and its check fails when its key formula is broken."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minidl import cli

pytestmark = pytest.mark.host("lessons run in processes of their own")

ROOT = Path(__file__).resolve().parent.parent
LESSONS = cli.lessons()

#: number -> (name of the fault, code that runs before the lesson, a piece of the message that the check answers with).
#: Only the lesson's own objects can be wrong: the fault is in the scheme it calls, never in its text.
FAULTS = {
    1: [
        ("zeros that are not quite", "init.zeros = lambda: init.normal(std=1e-3)", "so h = 0"),
        ("a constant that is drawn", "init.constant = lambda value: init.normal(value, 0.01)", "equal units get equal"),
        ("drawn weights that are equal", "init.normal = lambda std: init.constant(std)", "weights differ"),
    ],
    2: [
        ("a std 1.3 times too large", "init.normal = lambda std, law=init.normal: law(std=1.3 * std)", "the std of W"),
        ("a limit taken for the std", "init.normal = lambda std: init.uniform(-std, std)", "the std of W"),
        ("a gradient 1.3 times too large", "relu.derivative(lambda g, y, x: 1.3 * g * (y > 0))", "or n s^2 / 2"),
        ("a theory with a third for ReLU", "meanfield.gaussian_moments = third", "or n s^2 / 2"),
    ],
}
CASES = [(number, *fault) for number, faults in FAULTS.items() for fault in faults]

#: What the faults need.
PREAMBLE = """
from minidl import init, meanfield
from minidl.ops import relu
half = meanfield.gaussian_moments
def third(f, q):
    return meanfield.Moments(0.0, q / 3, 1 / 3) if f == "relu" else half(f, q)
"""


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in ``folder``, on the processor, with one thread: the test processes fill the machine already."""
    settings = {"PYTHONPATH": str(ROOT), "MINIDL_BACKEND": "numpy", "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )


def run_source(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """A changed lesson, as ``minidl lesson --fast`` would run it."""
    (folder / "lesson.py").write_text(source, encoding="utf-8")
    return run(folder, "lesson.py", MINIDL_FAST="1", MPLBACKEND="Agg")


def source(number: int) -> str:
    return next(lesson.path for lesson in LESSONS if lesson.number == number).read_text(encoding="utf-8")


def test_every_lesson_has_planted_faults():
    assert sorted(FAULTS) == [lesson.number for lesson in LESSONS]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.path.stem)
def test_a_lesson_runs_from_another_directory_and_leaves_its_figures(lesson, tmp_path):
    answer = run(tmp_path, "-m", "minidl", "lesson", str(lesson.number), "--fast", PYTHONIOENCODING="ascii")
    assert answer.returncode == 0, answer.stderr
    assert "check: passed" in answer.stdout
    assert re.search(r"claimed +predicted +measured", answer.stdout)
    written = {path.name: path.stat().st_size for path in tmp_path.glob("minidl-out/*/*")}
    figures = set(re.findall(r'savefig\("(\w+\.png)"', source(lesson.number)))
    assert figures and set(written) == figures
    assert min(written.values()) > 5_000


@pytest.mark.parametrize(("number", "name", "fault", "message"), CASES, ids=[f"{c[0]}: {c[1]}" for c in CASES])
def test_the_check_of_a_lesson_fails_when_its_key_formula_is_broken(number, name, fault, message, tmp_path):
    answer = run_source(tmp_path, f"{PREAMBLE}{fault}\n{source(number)}")
    assert answer.returncode == 1, "the fault passed unseen"
    last = answer.stderr.strip().splitlines()[-1]
    assert last.startswith("AssertionError: ") and message in last
    assert "check: passed" not in answer.stdout


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.path.stem)
def test_a_lesson_has_the_form_of_a_lesson(lesson):
    text = lesson.path.read_text(encoding="utf-8")
    assert text.startswith("# %% [markdown]\n# # ")
    assert len(text.splitlines()) <= 150
    first_cell = text.split("\n\n")[0]
    assert "**Goal:**" in first_cell and re.search(r"\*\*Time:\*\* \d+ minutes", first_cell)
    steps = [text.find(f"\n# ## {step}\n") for step in ("Predict", "Run", "Check", "Exercise")]
    assert -1 not in steps and steps == sorted(steps)


@pytest.mark.parametrize(("answer", "code", "word"), [(0, 1, "no: the rank is"), (2, 0, "right: rank")])
def test_the_exercise_of_lesson_1_knows_the_right_answer(answer, code, word, tmp_path):
    ended = run_source(tmp_path, source(1).replace("my_rank = None", f"my_rank = {answer}"))
    assert ended.returncode == code
    assert word in ended.stdout + ended.stderr


BISECTION = """low, high = 0.03, 0.1
for _ in range(12):
    my_sigma = (low + high) / 2
    rising = slopes(*measure("relu", my_sigma, seed=0))[0] > 0
    low, high = (low, my_sigma) if rising else (my_sigma, high)
"""


@pytest.mark.parametrize(
    ("answer", "code", "word"),
    [(BISECTION, 0, "right: 0.06"), ("my_sigma = 500**-0.5  # right for tanh", 1, "still changes")],
    ids=["bisection", "the sigma of tanh"],
)
def test_the_exercise_of_lesson_2_knows_the_right_answer(answer, code, word, tmp_path):
    ended = run_source(tmp_path, source(2).replace("my_sigma = None", answer))
    assert ended.returncode == code
    assert word in ended.stdout + ended.stderr
