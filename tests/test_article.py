"""docs/article.md: forty rows, a verdict each, commands that exist, numbers that their commands print."""

import functools
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from minidl import cli, init
from minidl.experiment.advice import EXPERIMENTS
from minidl.experiment.grid import initializer
from minidl.experiment.presets import PRESETS
from minidl.lab.passport import scheme_passport

ROOT = Path(__file__).resolve().parent.parent
ARTICLE = ROOT / "docs" / "article.md"
pytestmark = pytest.mark.skipif(not ARTICLE.is_file(), reason="the docs are not part of an installation")

TEXT = re.sub(r"\s+", " ", ARTICLE.read_text(encoding="utf-8")) if ARTICLE.is_file() else ""
ROWS = {int(n): row for n, row in re.findall(r"### (\d+)\. (.*?)(?=###|\Z)", TEXT)}
VERDICTS = ("right", "right in part", "right if", "wrong", "ambiguous", "unsupported")
COMMANDS = sorted(set(re.findall(r"`((?:minidl|python docs)[^`]*)`", TEXT)))
#: rows that state nothing measurable: a name for a thing (3), what somebody else recommends (13)
NOT_MEASURABLE = {3, 13}
FACTORS = re.findall(
    r"`minidl init show ([^`]+)`: (linear|ReLU|tanh|sigmoid) (rms|signal|gradient) ×(\d+(?:\.\d+)?)", TEXT
)


def results() -> set[str]:
    """The pages of results that exist or that a command of the repository makes."""
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "docs" / "results" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {*module.RUNS, *EXPERIMENTS}


def test_all_forty_statements_are_there_in_order():
    assert list(ROWS) == list(range(1, 41))


@pytest.mark.parametrize("number", range(1, 41))
def test_a_row_has_a_verdict_and_where_it_can_be_measured_a_command(number):
    row = ROWS[number]
    verdict = re.search(r"\*\*Verdict: ([a-z ]+)", row)
    assert verdict and verdict[1].strip() in VERDICTS
    if number not in NOT_MEASURABLE:
        measured = row.partition("**Measured:**")[2]
        assert any(f"`{command}`" in measured for command in COMMANDS) or "rows 26 and 27" in measured


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_exists_with_these_arguments(command):
    words = shlex.split(command)
    if words[0] == "python":
        assert (ROOT / words[1]).is_file() and set(words[2:]) <= set(EXPERIMENTS)
        return
    if words[1:] == ["init", "show", "NAME"]:
        return
    args = cli.parser().parse_args(words[1:])
    if words[1:3] == ["init", "show"]:
        initializer(args.name)
    if getattr(args, "preset", None) is not None:
        assert args.preset in PRESETS


def test_links_lead_to_files_or_to_pages_that_a_command_makes():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        page = re.fullmatch(r"results/([\w-]+)/README\.md", target)
        assert page[1] in results() if page else (ARTICLE.parent / target).exists(), target


@functools.cache
def factors(words: str) -> dict[str, dict[str, float]]:
    args = cli.parser().parse_args(["init", "show", *shlex.split(words)])
    found = scheme_passport(initializer(args.name), fan_in=args.fan_in, fan_out=args.fan_out)
    return {record["network"]: record for record in found.records}


@pytest.mark.parametrize(("words", "network", "what", "said"), sorted(set(FACTORS)))
def test_a_factor_on_the_page_is_what_its_command_prints(words, network, what, said):
    """Within 1 %: another machine's sums differ in the last bits, and those of an exploding network in more."""
    assert factors(words)[network][what] == pytest.approx(float(said), rel=0.01)


def test_there_are_enough_measured_factors_that_the_last_test_means_something():
    assert len(set(FACTORS)) >= 15


@pytest.mark.parametrize(("words", "std"), re.findall(r"`minidl init show ([^`]+)` has std (\d+(?:\.\d+)?)", TEXT))
def test_a_std_on_the_page_is_what_its_command_prints(words, std):
    args = cli.parser().parse_args(["init", "show", *shlex.split(words)])
    found = scheme_passport(initializer(args.name), fan_in=args.fan_in, fan_out=args.fan_out)
    assert found.weights["std"] == pytest.approx(float(std), rel=1e-3)


@pytest.mark.parametrize("number", range(1, 41))
def test_a_percentage_stands_on_a_page_that_its_row_links_to(number):
    linked = [ARTICLE.parent / page for page in re.findall(r"\]\((results/[^)]+)\)", ROWS[number])]
    pages = " ".join(page.read_text(encoding="utf-8") for page in linked if page.is_file())
    for said in re.findall(r"(\d+\.\d+) %", ROWS[number].partition("**Measured:**")[2]):
        assert re.search(rf"(?<![\d.]){re.escape(said)}(?!\d)", pages), f"{said} % stands on no page of row {number}"


def test_functions_and_schemes_that_the_page_names_exist():
    for name in re.findall(r"`init\.(\w+)`", TEXT):
        assert hasattr(init, name), name
    for name in re.findall(r"\(initializers/(\w+)\.md\)", TEXT):
        assert name in init.names()
