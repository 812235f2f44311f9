"""Assignment A2: what is handed out, who gets which points, and that every slip is named."""

import ast
import csv
import json
import re
from dataclasses import replace
from itertools import combinations
from math import comb, erfc, prod, sqrt
from pathlib import Path

import numpy as np
import pytest

from minidl import cli, init, models
from minidl.course import a2, commands, handout, isolate, judge, report
from minidl.course.assignment import Assignment, hidden
from minidl.course.grade import UNWRITTEN, Grade, Submission, grade
from minidl.init.ratios import suspects

pytestmark = pytest.mark.host("a student's code runs in a process of its own, on NumPy alone")

A2 = a2.A2
SOURCE = handout.source(A2)
STUDENT = handout.without_solutions(SOURCE)
TASKS = {task.function: task for task in A2.tasks(hidden("s", "A2", "ada"))}  # drawn once: it takes a while
FUNCTIONS = list(TASKS)


def graded(text: str, student: str = "ada", of: Assignment = A2) -> Grade:
    return grade(of, Submission(student, text), "s")


def lost(found: Grade) -> dict[tuple[str, str], float]:
    """(function, check) -> points lost."""
    return {(r.function, r.check): r.of - r.points for r in found.results if r.points < r.of}


def changed(*replacements: tuple[str, str]) -> str:
    """The solution with slips."""
    text = SOURCE
    for right, wrong in replacements:
        assert text.count(right) == 1, right
        text = text.replace(right, wrong)
    return text


def solution_lines() -> list[str]:
    """Every line inside the markers but the hints, without its indentation."""
    regions = re.findall(rf"{handout.BEGIN}\n(.*?){handout.END}", SOURCE, flags=re.DOTALL)
    lines = [line.strip() for region in regions for line in region.splitlines()]
    return [line for line in lines if line and not line.startswith(handout.HINT)]


# -- what is handed out --------------------------------------------------------------------------------------------


def test_no_line_of_a_solution_is_handed_out():
    handed_out = {line.strip() for line in STUDENT.splitlines()}
    assert len(solution_lines()) > 30
    assert not handed_out & set(solution_lines())
    assert "SOLUTION" not in STUDENT


def test_every_function_that_is_graded_is_handed_out_and_raises_not_implemented():
    tree = ast.parse(STUDENT)
    bodies = {node.name: node.body for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert list(bodies) == FUNCTIONS
    for name, body in bodies.items():
        assert [type(node) for node in body] == [ast.Expr, ast.Raise], name
        assert ast.get_docstring(next(n for n in tree.body if getattr(n, "name", "") == name))


def test_hints_are_handed_out():
    assert STUDENT.count("# Hint: ") == SOURCE.count(handout.HINT) >= 5


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("def f():\n    ### BEGIN SOLUTION\n    pass\n", "line 2: this solution has no"),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION\n", "line 2: .* line 1 began a region"),
        ("x = 1\n### END SOLUTION\n", "line 2: .* none is open"),
        ("def f(:\n", "invalid syntax"),
    ],
)
def test_a_source_with_wrong_markers_is_refused(text, what):
    with pytest.raises((ValueError, SyntaxError), match=what):
        handout.without_solutions(text)


def test_a_hand_out_goes_into_a_new_folder_only(tmp_path, capsys):
    folder = tmp_path / "my a2"
    assert cli.main(["course", "handout", "A2", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {"a2.py", "README.md"}
    assert (folder / "a2.py").read_text(encoding="utf-8") == STUDENT
    assert "python -m minidl course check" in (folder / "README.md").read_text(encoding="utf-8")
    (folder / "a2.py").write_text("my work", encoding="utf-8")
    assert cli.main(["course", "handout", "A2", str(folder)]) == 4
    assert "is not empty" in capsys.readouterr().err
    assert (folder / "a2.py").read_text(encoding="utf-8") == "my work"


# -- points --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", [commands.PRACTICE, "Zoë Ünal, b.smith@example.org"])
def test_the_solution_gets_all_points(student):
    found = graded(SOURCE, student)
    assert not lost(found)
    assert found.points == found.of == A2.points == 50


def test_the_empty_hand_out_gets_none_and_a_friendly_word():
    found = graded(STUDENT)
    assert found.points == 0 and found.of == 50
    assert {r.says for r in found.results} == {UNWRITTEN}
    text = report.feedback(found)
    assert text.count(UNWRITTEN) == 1 and "Begin with conv_fans" in text


def all_of(function: str, *checks: str) -> dict[tuple[str, str], float]:
    """All the points of these checks."""
    return {(function, check): 2 if check == "spread" else 1 for check in checks}


NORMAL = "return rng.normal(0.0, {0}, shape).astype(dtype)"
HE = NORMAL.format("he_std")
GLOROT = NORMAL.format("glorot_std")
FANS = {"plain": 2, "groups": 1, "transposed": 1, "all at once": 2}

#: name -> (what is wrong, the points it costs, a piece of the hint). A hint in <> is that of the table of ratios.
SLIPS = {
    "swapped fans": (
        [('{"fan_in": fan_in, "fan_out": fan_out}', '{"fan_in": fan_out, "fan_out": fan_in}')],
        all_of("he_normal", "spread", "slope", "mode"),
        {"spread": "<fan_out for fan_in>", "slope": "1 layer: <fan_out for fan_in>", "mode": "mend that first"},
    ),
    "mode ignored": (
        [("fan = fan_in if mode", "fan = fan_in if True or mode")],
        all_of("he_uniform", "mode"),
        {"mode": "<fan_in for fan_out>"},
    ),
    "He for Glorot": (
        [("glorot_std = math.sqrt(2 / (fan_in + fan_out))", "glorot_std = math.sqrt(2 / fan_in)")],
        all_of("glorot_normal", "spread"),
        {"spread": "<one fan for the mean>"},
    ),
    "Glorot for He": (
        [("he_std = math.sqrt(2 / ((1 + a**2) * chosen))", "he_std = math.sqrt(2 / (fan_in + fan_out))")],
        all_of("he_normal", "spread", "slope", "mode"),
        {"spread": "<mean fan for fan_in>"},
    ),
    "limit for std": (
        [(GLOROT, NORMAL.format("math.sqrt(6 / (fan_in + fan_out))"))],
        all_of("glorot_normal", "spread"),
        {"spread": "<limit as std>"},
    ),
    "std for limit": (
        [("limit = math.sqrt(6 ", "limit = math.sqrt(2 ")],
        all_of("glorot_uniform", "spread"),
        {"spread": "<std as limit>"},
    ),
    "variance for std": (
        [(HE, NORMAL.format("he_std**2"))],
        all_of("he_normal", "spread", "slope", "mode"),
        {check: "<variance as std>" for check in ("spread", "slope", "mode")},
    ),
    "uncorrected truncation": (
        [(" / math.sqrt(1 - 4 * density / kept)", "")],
        all_of("truncated_normal", "spread"),
        {"spread": "<uncorrected truncation>"},
    ),
    "correction upside down": (
        [("* std / math.sqrt(1", "* std * math.sqrt(1")],
        all_of("truncated_normal", "spread"),
        {"spread": "goes the wrong way"},
    ),
    "clipped": (
        [("values[outside] = rng.standard_normal(int(outside.sum()))", "values = np.clip(values, -2, 2)")],
        all_of("truncated_normal", "spread", "law"),
        {"law": "at the cut"},
    ),
    "fans of the shape": (
        [("limit = math.sqrt(6 / (fan_in + fan_out))", "limit = math.sqrt(6 / (shape[0] + shape[1]))")],
        {("glorot_uniform", "spread"): 0.67},
        {"spread": "are no fans of a convolution"},
    ),
    "limit, slope and mode at once": (
        [
            ("fan = fan_in if mode", "fan = fan_in if True or mode"),
            ("math.sqrt(6 / ((1 + a * a)", "math.sqrt(2 / ((1 + a)"),
        ],
        all_of("he_uniform", "spread", "slope", "mode"),
        {
            "spread": "<std as limit>",
            "slope": "beside what is wrong in spread: 1 + a instead of 1 + a²",
            "mode": "beside what is wrong in spread: <fan_in for fan_out>",
        },
    ),
    "missing receptive field": (
        [("taps = kernel_size[0] * kernel_size[1]", "taps = 1")],
        {("conv_fans", check): points for check, points in FANS.items()},
        {check: "<kernel forgotten>" for check in FANS},
    ),
    "a square kernel": (
        [("taps = kernel_size[0] * kernel_size[1]", "taps = kernel_size[0] ** 2")],
        {("conv_fans", check): points for check, points in FANS.items()},
        {check: "not one of them squared" for check in FANS},
    ),
    "groups not divided": (
        [("outward = out_channels // groups * taps", "outward = out_channels * taps")],
        {("conv_fans", "groups"): 0.5, ("conv_fans", "all at once"): 1.0},
        {"groups": "fan_out: <groups forgotten>"},
    ),
    "stride forgotten": (
        [("inward = inward / stride**2", "inward = inward")],
        {("conv_fans", "transposed"): 0.5, ("conv_fans", "all at once"): 1.0},
        {"transposed": "a stride apart"},
    ),
    "global random state": (
        [(GLOROT, GLOROT.replace("rng.", "np.random."))],
        all_of("glorot_normal", "generator"),
        {"generator": "NumPy's global generator"},
    ),
    "a generator of its own": (
        [(HE, HE.replace("rng.", "np.random.default_rng()."))],
        all_of("he_normal", "generator"),
        {"generator": "a generator made inside"},
    ),
    "a seed inside": (
        [(HE, HE.replace("rng.", "np.random.default_rng(0)."))],
        all_of("he_normal", "generator"),
        {"generator": "a seed inside"},
    ),
    "float64": (
        [(GLOROT, GLOROT.replace(".astype(dtype)", ""))],
        all_of("glorot_normal", "form"),
        {"form": "float64"},
    ),
    "uniform for normal": (
        [(GLOROT, "return (glorot_std * math.sqrt(3) * rng.uniform(-1, 1, shape)).astype(dtype)")],
        all_of("glorot_normal", "law"),
        {"law": "no normal law"},
    ),
    "shifted": (
        [("rng.uniform(-limit, limit, shape)", "rng.uniform(0, 2 * limit, shape)")],
        all_of("glorot_uniform", "law"),
        {"law": "it should be 0"},
    ),
    "slope ignored": (
        [("(1 + a * a)", "1.0")],
        all_of("he_uniform", "slope"),
        {"slope": "a is not used"},
    ),
    "QR without its signs": (
        [("np.where(np.diag(r) < 0, -1.0, 1.0)", "1.0")],
        all_of("orthogonal", "signs"),
        {"signs": "of 40 draws"},
    ),
    "gain squared": (
        [("(gain * matrix)", "(gain * gain * matrix)")],
        all_of("orthogonal", "gain"),
        {"gain": "<gain twice>"},
    ),
    "rows never transposed": (
        [("matrix = q if rows >= columns else q.T", "matrix = q")],
        {("orthogonal", "matrices"): 1.0, ("orthogonal", "convolution"): 1.0},
        {"matrices": "off by"},
    ),
}


def hint(piece: str) -> str:
    """``<kernel forgotten>`` → the hint of that name in the table of ratios."""
    table = suspects(fan_in=70, fan_out=330, receptive_field=15, groups=7, gain=1.3)
    return re.sub("<(.+)>", lambda match: next(s.hint for s in table if s.name == match[1]), piece)


def some(*functions: str) -> Assignment:
    """The assignment with some of its functions, as ada gets it, for the sake of time."""
    return replace(A2, tasks=lambda draw: [task for name, task in TASKS.items() if name in functions])


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_costs_exactly_its_points_and_is_named(slip):
    replacements, costs, hints = SLIPS[slip]
    found = graded(changed(*replacements), of=some(*(function for function, _ in costs)))
    assert lost(found) == pytest.approx(costs)
    for check, piece in hints.items():
        says = next(r.says for r in found.results if (r.function, r.check) in costs and r.check == check)
        assert hint(piece) in says


#: What a student may write for the gain, and the hint; the first is another right way.
GAINS = {
    "1 / (math.sqrt(mean(f(math.sqrt(q) * XI) ** 2) / q))": "",
    "math.sqrt(1 / mean(f(XI) ** 2))": "the gain for q = 1",
    "math.sqrt(1 / mean(f(math.sqrt(q) * XI) ** 2))": "q is missing under the root",
    "math.sqrt(q / mean(f(XI) ** 2))": "φ(√q ξ), not φ(ξ)",
    "math.sqrt(q / mean(f(q * XI) ** 2))": "not φ(q ξ)",
    "math.sqrt(q / (mean(f(math.sqrt(q) * XI) ** 2) - mean(f(math.sqrt(q) * XI)) ** 2))": "not the variance",
    "q / mean(f(math.sqrt(q) * XI) ** 2)": "take the root",
    "math.sqrt(mean(f(math.sqrt(q) * XI) ** 2) / q)": "one over the gain",
}


@pytest.fixture(scope="module")
def gains() -> list[isolate.Answer]:
    """What every formula answers to each call of the task, one after the other in one process."""
    source = """import math
import numpy as np
XI = np.linspace(-10, 10, 100_001)
def mean(values): return np.average(values, weights=np.exp(-XI * XI / 2))
"""
    source += "".join(f"def gain{i}(phi, q):\n    f = phi\n    return {each}\n" for i, each in enumerate(GAINS))
    asked = TASKS["activation_gain"].calls.values()
    calls = [replace(call, function=f"gain{i}") for i in range(len(GAINS)) for call in asked]
    return isolate.call(source, "a2.py", calls).answers


@pytest.mark.parametrize("formula", GAINS)
def test_every_slip_in_the_gain_of_the_activation_is_named(formula, gains):
    checks = TASKS["activation_gain"].checks
    first = len(checks) * list(GAINS).index(formula)
    for check, answer in zip(checks, gains[first : first + len(checks)], strict=True):
        verdict = check.judge(answer)
        assert verdict.share == (0 if GAINS[formula] else 1)
        assert GAINS[formula] in verdict.says


def test_sampling_gets_half_of_the_points_of_the_gain():
    source = """import numpy as np
def activation_gain(phi, q):
    return np.sqrt(q / np.mean(phi(np.sqrt(q) * np.random.default_rng(1).standard_normal(40_000)) ** 2))
"""
    found = graded(source, of=some("activation_gain"))
    assert found.points == 4
    assert "integrate more finely" in found.results[0].says


def test_the_library_itself_has_no_answer_to_the_gain():
    """``init.gain`` knows q = 1 only: that answer is among the slips, and more than 3 % off for every student."""
    for student in map(str, range(10)):
        phi, q, gain, slips = a2._drawn_gain(hidden("s", "A2", student)("activation_gain"))
        function = eval(f"lambda z: {phi}", {"np": np})
        assert any(value == pytest.approx(init.gain(function), rel=1e-6) for value in slips.values())
        assert abs(init.gain(function) / gain - 1) > 0.03
        # the defining property, by Monte Carlo: the second moment q comes back
        z = np.sqrt(q) * np.random.default_rng(0).standard_normal(1_000_000)
        assert gain**2 * np.mean(function(z) ** 2) == pytest.approx(q, rel=0.02)


# -- what is hidden, and how sure a verdict is ---------------------------------------------------------------------


def arguments(secret: str, student: str) -> str:
    return repr([call.arguments for task in A2.tasks(hidden(secret, "A2", student)) for call in task.calls.values()])


def test_secret_and_student_fix_every_hidden_number():
    assert arguments("s", "ada") == arguments("s", "ada")
    assert len({arguments("s", "ada"), arguments("s", "bob"), arguments("t", "ada")}) == 3


def test_a_right_answer_is_refused_less_than_once_in_a_million():
    """The widest law of the three decides: the relative standard error of a normal std is 1/√(2N)."""
    assert erfc(judge.MEAN_LIMIT / sqrt(2)) < 1e-6
    assert 3 * erfc(0.02 * sqrt(2 * judge.SMALLEST) / sqrt(2)) < 1e-6  # three layers
    assert erfc(judge.KURTOSIS_LIMIT / sqrt(24 / judge.SMALLEST) / sqrt(2)) < 1e-6
    assert 2 * sum(comb(a2.DRAWS, k) for k in range(3)) / 2**a2.DRAWS < 1e-6
    for student in map(str, range(100)):
        for layer in a2._layers(hidden("s", "A2", student)("he_normal")).values():
            assert prod(layer.shape) >= judge.SMALLEST


def test_the_length_that_is_named_is_a_wrong_one():
    """Twice the gain in the second of three matrices: not that the first is 1 times the gain."""
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    verdict = judge.scale(3.0, 3 * q, 9 * q, 3 * q)
    assert verdict.share == 0 and verdict.says.startswith("lengths are 3 times the gain: ")
    assert "no usual slip" not in verdict.says


def test_two_hundred_right_answers_are_all_accepted():
    """And not only just: the largest deviations of 200 students stay well inside the limits."""
    rng = np.random.default_rng(0)
    layer = judge.Layer((201, 201), 201, 201)
    for _ in range(200):
        w = rng.standard_normal(layer.shape).astype("float32")
        assert judge.spread([layer], [1.0], {}, w).share == 1
        assert judge.law("normal", 0.0, None, w).share == 1
        assert abs(w.std() - 1) < 0.75 * 0.02


def test_the_layers_of_every_student_tell_the_slips_apart():
    """In no layer do two slips that a scheme can have give nearly the same ratio in all three layers."""
    for student in map(str, range(50)):
        layers = list(a2._layers(hidden("s", "A2", student)("glorot_normal")).values())
        tables = [{s.name: s.ratio for s in suspects(**each.numbers(), std=a2._he_std(each))} for each in layers]
        names = set.intersection(*(set(table) for table in tables))
        for one, two in combinations(sorted(names), 2):
            assert max(abs(table[one] / table[two] - 1) for table in tables) > 0.04, (student, one, two)


# -- the students' functions are initializers ----------------------------------------------------------------------


def test_a_students_scheme_serves_as_an_initializer_of_minidl():
    student: dict = {}
    exec(SOURCE, student)
    model = models.mlp([64, 50, 10], "relu", seed=0)
    init.apply(model, student["he_normal"], seed=0)
    assert model.linear1.weight.data.std() == pytest.approx(sqrt(2 / 64), rel=0.1)


# -- commands and files --------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Commands grade a single function."""
    monkeypatch.setitem(commands.ASSIGNMENTS, "A2", some("glorot_normal"))


def test_check_finds_the_assignment_in_the_folder_and_ends_with_1_until_all_is_right(
    quick, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["course", "check"]) == 4
    assert "go to the folder of the hand-out" in capsys.readouterr().err
    Path("a2.py").write_text(STUDENT, encoding="utf-8")
    assert cli.main(["course", "check"]) == 1
    assert "0 of 5 points" in capsys.readouterr().out
    Path("a2.py").write_text(SOURCE, encoding="utf-8")
    assert cli.main(["course", "check", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "minidl.course-check/1" and document["points"] == 5


def test_grade_needs_a_secret_and_submissions(quick, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MINIDL_COURSE_SECRET", raising=False)
    (tmp_path / "a2.py").write_text(SOURCE, encoding="utf-8")
    out = ["--out", str(tmp_path / "out")]
    assert cli.main(["course", "grade", "A2", str(tmp_path), *out]) == 4
    assert "MINIDL_COURSE_SECRET" in capsys.readouterr().err
    assert cli.main(["course", "grade", "A2", *out, "--secret", "s"]) == 4
    assert cli.main(["course", "grade", "A7", str(tmp_path), *out, "--secret", "s"]) == 4
    assert "unknown assignment 'A7'" in capsys.readouterr().err
    assert cli.main(["course", "grade", "A2", *[str(tmp_path / "a2.py")] * 2, *out, "--secret", "s"]) == 4
    assert "two submissions" in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["nobody", "subs/*.zip"])
def test_a_submission_that_is_not_there_is_said_before_anything_is_graded(typed, quick, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["course", "grade", "A2", typed, "--secret", "s"]) == 4
    assert f"there is no {typed}" in capsys.readouterr().err
    assert not Path("minidl-out").exists()


def test_a_star_is_expanded_where_the_shell_leaves_it_alone(quick, submissions, tmp_path, capsys):
    paths = [str(tmp_path / "[ab]*"), str(tmp_path / "=cem")]
    (tmp_path / "[x]").mkdir()
    common = ["--secret", "s", "--out", str(tmp_path / "out"), "--json"]
    assert cli.main(["course", "grade", "A2", *paths, str(tmp_path / "[x]"), *common]) == 1
    students = [each["student"] for each in json.loads(capsys.readouterr().out)["grades"]]
    assert students == ["ada", "bob", "=cem", "[x]"]


@pytest.fixture
def submissions(tmp_path) -> list[str]:
    """Three students: all right, a slip, nothing handed in."""
    slip = changed(("glorot_std = math.sqrt(2 / (fan_in + fan_out))", "glorot_std = math.sqrt(2 / fan_in)"))
    for student, text in {"ada": SOURCE, "bob": slip, "=cem": None}.items():
        (tmp_path / student).mkdir()
        if text:
            (tmp_path / student / "a2.py").write_text(text, encoding="utf-8")
    return [str(tmp_path / student) for student in ("ada", "bob", "=cem")]


def test_grade_writes_a_table_csv_feedback_and_gradescope_files(quick, submissions, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MINIDL_COURSE_SECRET", "a-secret-word")
    assert cli.main(["course", "grade", "A2", *submissions, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert [line.split()[:3] for line in said.splitlines()[2:5]] == [
        ["ada", "5", "5"],
        ["bob", "3", "5"],
        ["=cem", "0", "5"],
    ]
    folder = tmp_path / "out" / "course-A2-001"
    with open(folder / "grades.csv", encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert {name: float(row["points"]) for name, row in rows.items()} == {"ada": 5, "bob": 3, "'=cem": 0}
    assert float(rows["bob"]["A2.2 glorot_normal spread"]) == 0
    assert "He's" in (folder / "bob.txt").read_text(encoding="utf-8")
    assert "there is no a2.py" in (folder / "_cem.txt").read_text(encoding="utf-8")
    for path in folder.iterdir():
        assert "a-secret-word" not in path.read_text(encoding="utf-8")


def test_the_gradescope_document_has_the_fields_and_values_that_its_schema_allows(quick, submissions, tmp_path):
    assert cli.main(["course", "grade", "A2", submissions[1], "--secret", "s", "--out", str(tmp_path / "out")]) == 1
    document = json.loads((tmp_path / "out" / "course-A2-001" / "bob.json").read_text(encoding="utf-8"))
    assert document["score"] == sum(test["score"] for test in document["tests"]) == 3
    assert document["stdout_visibility"] == "hidden"
    for test in document["tests"]:
        assert 0 <= test["score"] <= test["max_score"]
        assert test["status"] == ("passed" if test["score"] == test["max_score"] else "failed")
        assert test["visibility"] == "visible" and test["output_format"] == "text"
        assert test["output"] and test["name"] and re.fullmatch(r"A2[\d.]+", test["number"])


def test_the_student_can_be_named_where_folders_do_not_tell(quick, submissions, tmp_path, capsys):
    common = ["--secret", "s", "--out", str(tmp_path / "out"), "--json"]
    assert cli.main(["course", "grade", "A2", submissions[0], "--student", "a/b@c.org", *common]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["grades"][0]["student"] == "a/b@c.org"
    assert (tmp_path / "out" / "course-A2-001" / "a_b@c.org.json").is_file()
    assert cli.main(["course", "grade", "A2", *submissions, "--student", "ada", *common]) == 4
