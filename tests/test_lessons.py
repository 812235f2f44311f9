"""Every lesson runs by its command from another directory, and its check fails when its key formula is broken."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_data_files import write_mnist

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
        (
            "a gradient 1.3 times too large",
            "relu.derivative(lambda g, y, x: 1.3 * g * (y > 0))",
            "signal and gradient x",
        ),
        ("a theory with a third for ReLU", "meanfield.gaussian_moments = third", "or n s^2 / 2"),
    ],
    3: [
        (
            "the fans swapped",
            "init.lecun_normal = lambda mode='fan_in': lecun(SWAPPED[mode])",
            "n Var(w) up, m Var(w)",
        ),
        (
            "Xavier without the mean",
            "init.glorot_normal = lambda gain=1.0: glorot(2**0.5 * gain)",
            "Var(w) up, m Var(w)",
        ),
        ("a limit taken for the std", "init.torch_default = init.lecun_uniform", "standard: mean singular value"),
        ("a theory of 2 z", "meanfield.gaussian_moments = lambda f, q: half(f, 4 * q)", "off the algebra"),
    ],
    4: [
        ("a gain of 1", "init.he_normal = init.lecun_normal", "He: 2/n: signal x"),
        (
            "a variance taken for the std",
            "init.he_normal = lambda: init.variance_scaling(2 / 256)",
            "ReLU keeps one half",
        ),
        ("a second recipe", "init.kaiming_normal = init.he_truncated_normal", "all three are N(0, 2/n)"),
        ("training that changes nothing", "optim.SGD.step = lambda self: None", "predicted learns"),
    ],
    5: [
        ("a cut that is restored", "init.keras_2_0_9 = init.he_truncated_normal", "cut, not restored: x"),
        ("a root that is forgotten", "init.as_written_gaussian = lambda *a, **k: init.he_normal()", "as variance: x"),
        (
            "the fans of each layer",
            "init.as_written_xavier_global = lambda n, m: init.glorot_normal()",
            "Xavier(784, 10): x",
        ),
        ("signs on both sides", "init.as_written_kaiming = lambda *a: init.he_truncated_normal()", "Kaiming: x"),
        ("a gradient 1.3 times too large", "relu.derivative(lambda g, y, x: 1.3 * g * (y > 0))", "as std: x"),
    ],
    6: [
        ("zeros that are not quite", "init.zeros = lambda: init.normal(std=1e-3)", "zero weights: h = 0"),
        (
            "a constant that is drawn",
            "init.constant = lambda value: init.normal(value, 0.01)",
            "equal kernels get equal",
        ),
        ("He's scheme without a gain", "init.he_normal = lambda: init.normal(std=1e-3)", "learn from few images"),
        ("the smallest class predicted", "meanfield.zero_init_accuracy = smallest", "one answer for all images"),
    ],
}
CASES = [(number, *fault) for number, faults in FAULTS.items() for fault in faults]

#: What the faults need.
PREAMBLE = """
from minidl import init, meanfield, optim
from minidl.ops import relu
lecun, glorot, zero = init.lecun_normal, init.glorot_normal, meanfield.zero_init_accuracy
SWAPPED = {"fan_in": "fan_out", "fan_out": "fan_in"}
half = meanfield.gaussian_moments
def third(f, q):
    return meanfield.Moments(0.0, q / 3, 1 / 3) if f == "relu" else half(f, q)
def smallest(train, test):
    return zero(-train + train.max(), test)._replace(classes=(-1,))
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


BISECTION = """low, high = 0.03, 0.1
for _ in range(12):
    my_sigma = (low + high) / 2
    rising = slopes(*measure("relu", my_sigma, seed=0))[0] > 0
    low, high = (low, my_sigma) if rising else (my_sigma, high)
"""

#: number, what stands in the exercise, an answer to it, the exit code, what the lesson says.
ANSWERS = {
    "1, rank 0": (1, "my_rank = None", "my_rank = 0", 1, "no: the rank is"),
    "1, rank 2": (1, "my_rank = None", "my_rank = 2", 0, "right: rank"),
    "2, bisection": (2, "my_sigma = None", BISECTION, 0, "right: 0.06"),
    "2, the sigma of tanh": (2, "my_sigma = None", "my_sigma = 500**-0.5", 1, "still changes"),
    "3, flat": (3, "my_ratio = None", "my_ratio = 1", 0, "right: "),
    "3, as the signal": (3, "my_ratio = None", "my_ratio = 3**-4.5", 1, "no: "),
    "4, leaky": (4, "my_std = None", "my_std = (2 / 1.25 / N) ** 0.5", 0, "right: "),
    "4, He": (4, "my_std = None", "my_std = (2 / N) ** 0.5", 1, "no: the signal changes by x1.1"),
    "5, all six": (
        5,
        "{0.612: None, 0.707: None, 0.577: None, 5.0: None, 2.943: None, 0.1155: None}",
        "dict(zip((0.612, 0.707, 0.577, 5.0, 2.943, 0.1155), (2 / 400, 1 / 150, 2 / 450, 2 / 6, (2 / 150) ** 0.5,"
        " (2 / 150) ** 2))); my_answers = {k: v ** 0.5 for k, v in my_answers.items()}",
        0,
        "0.1155 times He's std: right",
    ),
    "5, a wrong one": (5, "0.707: None", "0.707: np.sqrt(2 / 400)", 1, "no: this would be 0.612"),
    "6, zeros": (6, "my_sigma = None", "my_sigma = 1e-9", 1, "no: sigma 1e-09 ends at"),
}


@pytest.mark.parametrize(("number", "blank", "answer", "code", "word"), ANSWERS.values(), ids=ANSWERS)
def test_an_exercise_knows_the_right_answer(number, blank, answer, code, word, tmp_path):
    assert blank in source(number)
    ended = run_source(tmp_path, source(number).replace(blank, answer))
    assert ended.returncode == code, ended.stderr
    assert word in ended.stdout + ended.stderr


def test_the_stored_results_of_lesson_6_are_those_of_the_full_experiment():
    stored = re.findall(r'^    \("(.+?)", \w+, ([\d.]+), ([\d.]+), ', source(6), flags=re.MULTILINE)
    table = json.loads((ROOT / "docs/results/article/results.json").read_text(encoding="utf-8"))["table"]
    published = {row["scheme"]: row["test accuracy"] for row in table}
    assert len(stored) == 13
    assert {name: f"{mean} ± {deviation} %" for name, mean, deviation in stored}.items() <= published.items()


def test_lesson_6_takes_mnist_where_it_is_and_says_otherwise_that_it_is_not(tmp_path):
    head = source(6).split("# ## Predict")[0]
    nowhere = dict.fromkeys(("MINIDL_DATA", "HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), str(tmp_path))
    answer = run(tmp_path, "-c", head, MINIDL_FAST="1", **nowhere)
    assert "here: 1000 training images of the embedded digits" in answer.stdout and "not MNIST" in answer.stdout
    write_mnist(tmp_path / "mnist", train=60_000, test=10_000, packed=False)
    answer = run(tmp_path, "-c", head, MINIDL_FAST="1", **nowhere)
    assert "here: 1000 training images of MNIST" in answer.stdout, answer.stderr


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.path.stem)
def test_a_notebook_has_the_cells_of_the_lesson_and_nothing_else(lesson, tmp_path):
    answer = run(tmp_path, "-m", "minidl", "lesson", str(lesson.number), "--notebook")
    path = next(tmp_path.glob("minidl-out/*/*.ipynb"))
    assert answer.returncode == 0 and answer.stdout.strip() == str(path.resolve())
    document = json.loads(path.read_text(encoding="utf-8"))
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    script = lesson.path.read_text(encoding="utf-8")
    assert [cell["cell_type"] for cell in document["cells"]] == [
        "markdown" if line == "# %% [markdown]" else "code" for line in script.splitlines() if line.startswith("# %%")
    ]
    code = [cell["source"] for cell in document["cells"] if cell["cell_type"] == "code"]
    assert ast.dump(ast.parse("\n".join(code))) == ast.dump(ast.parse(script))
    prose = "\n".join(cell["source"] for cell in document["cells"] if cell["cell_type"] == "markdown")
    assert prose.startswith("# ") and "\n## Exercise\n" in prose


@pytest.mark.skipif(importlib.util.find_spec("nbformat") is None, reason="needs nbformat")
def test_a_notebook_is_valid():
    import nbformat

    for lesson in LESSONS:
        nbformat.validate(cli.notebook(lesson.path.read_text(encoding="utf-8")))
