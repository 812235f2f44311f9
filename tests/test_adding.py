"""docs/adding.md: its diffs apply to the package as it is, and the suite takes in what they add by itself."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "adding.md"

pytestmark = [
    pytest.mark.host("works on a copy of the package, in a process of its own"),
    pytest.mark.skipif(not PAGE.is_file(), reason="the docs are not part of an installation"),
]

#: Section of the page -> the name it adds, and the walks that have to meet it: file, beginning of the test's name
SECTIONS = {
    "An operation": (
        "cumsum",
        ["test_ops.test_every_operation_has_a_rule_and_an_example", "test_ops.test_derivatives_of_every_operation"],
    ),
    "An activation": (
        "mish",
        [
            "test_ops.test_derivatives_of_every_operation",
            "test_nn.test_a_layer_keeps_its_precision_in_output_gradients_and_state",
            "test_meanfield.test_the_analytic_slope_of_every_name_agrees_with_its_difference_quotient",
            "test_init_families.test_there_is_advice_for_every_activation",
        ],
    ),
    "A scheme": (
        "small_init",
        [
            "test_init_schemes.test_entries_follow_the_law_of_theory",
            "test_init_slopes.test_the_second_moment_grows_as_theory_says",
            "test_passport.test_the_law_in_the_formula_is_the_law_of_the_weights",
            "test_passport.test_every_scheme_has_its_page_with_its_formula",
        ],
    ),
    "An optimizer": (
        "RMSprop",
        [
            "test_optim.test_an_optimizer_follows_its_formula",
            "test_optim.test_an_optimizer_goes_down_a_quadratic",
            "test_optim.test_a_restored_optimizer_continues_bit_for_bit",
            "test_strict.test_a_training_step_neither_waits_nor_copies",
        ],
    ),
    "A data set": (
        "xor",
        [
            "test_data_contract.test_parts_are_standardized_float32_with_int64_labels",
            "test_data_contract.test_more_test_points_change_no_training_point",
            "test_data_cards.test_a_card_names_source_licence_splits_checksums_and_citation",
        ],
    ),
}
NAMES = [name for name, _ in SECTIONS.values()]

#: What the walks cannot know: values from another source than the diff. It runs beside the changed package.
VALUES = """
import math
import numpy as np
from minidl import Tensor, data, init, models, nn, ops, optim

x = Tensor([[1.0, 2.0, 4.0]], requires_grad=True)
y = x.cumsum(axis=1)
(y * np.array([[1, 10, 100]], "float32")).sum().backward()
assert y.numpy().tolist() == [[1, 3, 7]] and x.grad.tolist() == [[111, 110, 100]]
assert ops.cumsum(np.array([1.0, 2.0, 4.0]), axis=0, reverse=True).tolist() == [7, 6, 4]

e = math.e  # tanh(ln u) = (u² - 1)/(u² + 1)
assert math.isclose(nn.Mish()(np.ones(1))[0], ((1 + e) ** 2 - 1) / ((1 + e) ** 2 + 1), rel_tol=1e-14)
z = np.linspace(-12, 12, 100_001)
u = (1 + np.exp(z)) ** 2
square = np.sum((z * (u - 1) / (u + 1)) ** 2 * np.exp(-z * z / 2)) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
assert math.isclose(init.gain("mish"), 1 / math.sqrt(square), rel_tol=1e-9)
assert models.mlp([3, 4, 2], activation="mish", seed=0)(np.zeros((1, 3), "float32")).shape == (1, 2)

w = init.get("small_init")((1024, 256), fan_in=256, fan_out=1024, rng=np.random.default_rng(0))
glorot = init.glorot_normal()((1024, 256), fan_in=256, fan_out=1024, rng=np.random.default_rng(0))
assert np.allclose(w, glorot, rtol=1e-6)  # the layer that widens fourfold

p, w, v = Tensor([2.0], requires_grad=True), 2.0, 0.0
optimizer = optim.RMSprop([p], lr=0.1, alpha=0.5)
for g in (1.0, -3.0, 0.5):
    p.grad = np.array([g], "float32")
    optimizer.step()
    v = 0.5 * v + 0.5 * g * g
    w -= 0.1 * g / math.sqrt(v)
assert math.isclose(p.item(), w, rel_tol=1e-6)

train = data.load("xor", normalize=False).train
assert ((train.x.prod(axis=1) < 0) == (train.y == 1)).all() and train.counts().tolist() == [512, 512]
quarters = np.histogram2d(*train.x.T, bins=2, range=[[-1, 1], [-1, 1]])[0]
assert abs(quarters - 256).max() < 5 * 16  # standard errors
"""


# -------------------------------------------------------------------------------------- a diff, without git and patch


def diffs():
    """Section of the page -> its diff."""
    sections = re.split(r"^## (.+)\n", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
    blocks = [re.findall(r"^```diff\n(.*?)^```", text, re.M | re.S) for text in sections[1::2]]
    assert all(len(found) == 1 for found in blocks), "a section has one diff"
    return {heading: found[0] for heading, found in zip(sections[::2], blocks, strict=True)}


def changed(diff, root):
    """Path -> the text that a file has after a unified diff. Each hunk's old lines must stand in it just once."""
    texts = {}
    for file in re.split(r"^(?=--- )", diff, flags=re.M)[1:]:
        head, *hunks = re.split(r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@.*\n", file, flags=re.M)
        path = re.search(r"^\+\+\+ b/(.+)$", head, re.M)[1]
        text = "" if head.startswith("--- /dev/null") else (root / path).read_text(encoding="utf-8")
        for old, new, body in zip(*[iter(hunks)] * 3, strict=True):
            before = "".join(f"{line[1:]}\n" for line in body.splitlines() if not line.startswith("+"))
            after = "".join(f"{line[1:]}\n" for line in body.splitlines() if not line.startswith("-"))
            counts = (before.count("\n"), after.count("\n"))
            assert counts == (int(old or 1), int(new or 1)), f"{path}: a hunk with {counts} lines says {old} and {new}"
            at = [found.start() for found in re.finditer("^" + re.escape(before), text, re.M)]
            assert len(at) == 1, f"docs/adding.md is stale: {path} has these lines {len(at)} times, not once:\n{before}"
            text = text[: at[0]] + after + text[at[0] + len(before) :]
        texts[path] = text
    return texts


def test_the_page_has_the_five_sections():
    assert list(diffs()) == list(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_diff_applies_and_touches_one_file_by_hand(section):
    texts = changed(diffs()[section], ROOT)
    cards = [path for path in texts if re.fullmatch(r"datasets/\w+\.md", path)]
    assert len(texts) - len(cards) == 1
    assert len(cards) == (section == "A data set")
    for path, text in texts.items():
        old = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else ""
        assert SECTIONS[section][0] in text and SECTIONS[section][0] not in old


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("section", SECTIONS)
def test_git_takes_a_diff_and_does_the_same(section, tmp_path):
    texts = changed(diffs()[section], ROOT)
    for path in texts:
        (tmp_path / path).parent.mkdir(parents=True)
        if (ROOT / path).exists():
            shutil.copy(ROOT / path, tmp_path / path)
    apart = {"GIT_DIR": str(tmp_path / "none"), "GIT_WORK_TREE": str(tmp_path)}  # whatever repository this may lie in
    command = ["git", "apply", "-"]
    subprocess.run(command, input=diffs()[section].encode(), cwd=tmp_path, env={**os.environ, **apart}, check=True)
    assert {path: (tmp_path / path).read_text(encoding="utf-8") for path in texts} == texts


# ------------------------------------------------------------------------------------------- what the suite makes of it


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_suite_takes_in_what_the_diffs_add(tmp_path):
    for folder in ("minidl", "datasets", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for file in ("pyproject.toml", "docs/initializers/make.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    for diff in diffs().values():
        for path, text in changed(diff, tmp_path).items():
            (tmp_path / path).write_text(text, encoding="utf-8")

    python(tmp_path, "-c", VALUES)
    python(tmp_path, "docs/initializers/make.py", "small_init")
    files = sorted({walk.partition(".")[0] for _, walks in SECTIONS.values() for walk in walks} | {"test_house"})
    words = " or ".join([*NAMES, "documented", "every_layer_there_is", "card_without"])
    python(
        tmp_path, "-m", "pytest", "-q", "-k", words, "--junitxml=report.xml", *(f"tests/{file}.py" for file in files)
    )

    passed = set(passed_tests(tmp_path / "report.xml"))
    for name, walks in SECTIONS.values():
        for walk in walks:
            met = [test for test in passed if test.startswith(walk) and name.lower() in test.lower()]
            assert met, f"{walk} does not meet {name}"


def python(folder, *arguments):
    """Run Python in the copy; what it printed is the message if it fails."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**plain, "PYTHONPATH": str(folder), "MPLBACKEND": "agg", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"


def passed_tests(report):
    """ "test_ops.test_name[id]" of every test that passed."""
    for case in ElementTree.parse(report).iter("testcase"):
        if not {child.tag for child in case} & {"failure", "error", "skipped"}:
            yield f"{case.get('classname').rpartition('.')[2]}.{case.get('name')}"


# ---------------------------------------------------------------------------- the reader of diffs finds what it is for

DIFF = "--- a/x.py\n+++ b/x.py\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n\n"


def test_a_diff_is_applied_where_its_lines_stand(tmp_path):
    (tmp_path / "x.py").write_text("new\none\ntwo\n\nend\n")
    assert changed(DIFF, tmp_path) == {"x.py": "new\none\n2\n\nend\n"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("one\nzwei\n\n", r"stale: x.py has these lines 0 times, not once:\s+one\s+two"),
        ("none\ntwo\n\n", "these lines 0 times"),
        ("one\ntwo\n\none\ntwo\n\n", "these lines 2 times"),
    ],
)
def test_lines_that_have_changed_are_shown(source, message, tmp_path):
    (tmp_path / "x.py").write_text(source)
    with pytest.raises(AssertionError, match=message):
        changed(DIFF, tmp_path)


def test_a_hunk_that_is_cut_short_is_refused(tmp_path):
    (tmp_path / "x.py").write_text("one\ntwo\n\n")
    with pytest.raises(AssertionError, match=r"x.py: a hunk with \(2, 2\) lines says 3 and 3"):
        changed(DIFF.removesuffix("\n\n") + "\n", tmp_path)
