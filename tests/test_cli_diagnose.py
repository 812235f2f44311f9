"""``minidl diagnose``: built-in networks, a user's file, exit codes, JSON, and what it says when something is wrong."""

import json
import sys

import pytest

from minidl import cli

MODEL = """
import numpy as np
from minidl import nn

def make_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))

def of_zeros():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40, init="zeros"), nn.ReLU(), nn.Linear(40, 10, init="zeros"))

def raises():
    raise RuntimeError("no\\nluck")

def nothing():
    pass
"""
BATCH = """
def make_batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 1, 8, 8)).astype("float32"), rng.integers(10, size=20)
"""


@pytest.fixture
def run(tmp_path, capsys):
    def call(*arguments):
        code = cli.main(["diagnose", *arguments, "--out", str(tmp_path / "out"), "--backend", "numpy"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def file(tmp_path):
    def write(text, name="own.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_a_built_in_network_with_a_finding_ends_with_1(run, tmp_path):
    code, out, _ = run("mlp", "--activation", "sigmoid", "--init", "zeros", "--depth", "4", "--width", "30")
    assert code == 1
    assert "FINDING S1" in out and "fix" in out
    assert (tmp_path / "out" / "diagnose-001" / "diagnose.png").is_file()
    results = json.loads((tmp_path / "out" / "diagnose-001" / "results.json").read_text())
    assert results["primary"] == "S1" and results["schema"] == "minidl.diagnose/1"


def test_a_healthy_network_ends_with_0(run):
    assert run("mlp", "--depth", "3", "--width", "50")[0] == 0


def test_a_network_that_needs_larger_images_than_digits_gets_them(run):
    code, out, _ = run("lenet5", "--activation", "sigmoid", "--init", "zeros", "--batch", "16")
    assert code == 1
    assert out.startswith("lenet5 on shapes")


def test_json_is_one_document_and_nothing_else(run):
    code, out, err = run("mlp", "--depth", "3", "--init", "constant", "--json")
    document = json.loads(out)
    assert (code, err) == (1, "")
    assert document["schema"] == "minidl.diagnose/1" and document["version"]
    assert document["failed"] is True and document["verdict"] == "fail"
    primary = [f for f in document["findings"] if f["primary"]]
    assert [f["rule"] for f in primary] == [document["primary"]]
    assert {"rule", "level", "cause", "layer", "measured", "expected", "source", "fix", "effect"} <= primary[0].keys()


def test_a_file_is_diagnosed_on_digits_and_the_function_has_a_usual_name(run, file):
    code, out, _ = run(file(MODEL))
    assert code == 0
    assert out.startswith("own.py:make_model")


def test_a_file_may_hold_the_network_itself(run, file):
    code, out, _ = run(file(MODEL + "\nmodel = make_model()\n") + ":model")
    assert code == 0 and out.startswith("own.py:model")


def test_what_a_file_prints_is_not_in_the_json(run, file):
    loud = MODEL.replace("    return nn.Seq", "    print('made')\n    return nn.Seq")
    code, out, err = run(file("print('loaded')\n" + loud), "--json")
    assert code == 0 and json.loads(out)["network"] == "own.py:make_model"
    assert err.splitlines() == ["loaded", "made"]


def test_the_function_can_be_named_and_the_exit_code_tells_of_its_finding(run, file):
    assert run(file(MODEL) + ":of_zeros")[0] == 1


def test_the_batch_of_the_file_is_taken_if_it_makes_one_and_data_beats_it(run, file):
    path = file(MODEL + BATCH)
    assert "20 inputs" in run(path)[1]
    assert "256 inputs" in run(path, "--data", "digits")[1]


def test_a_file_may_import_its_neighbours(run, file):
    file("WIDTH = 24\n", "sizes.py")
    text = MODEL.replace("import numpy as np", "import numpy as np, sizes").replace("40", "sizes.WIDTH")
    assert run(file(text))[0] == 0


def test_a_file_may_import_its_neighbours_when_its_function_is_called(run, file, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    file("WIDTH = 24\n", "sizes_for_later.py")
    text = MODEL.replace("def make_model():\n", "def make_model():\n    from sizes_for_later import WIDTH\n")
    assert run(file(text.replace("40", "WIDTH", 2)))[0] == 0


def test_a_file_may_define_dataclasses_whose_annotations_are_text(run, file):
    """``dataclass`` looks such annotations up in ``sys.modules``."""
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n" + MODEL
    assert run(file(text + "\n@dataclass\nclass Sizes:\n    width: int = 40\n"))[0] == 0


@pytest.mark.parametrize(
    ("text", "spec", "said"),
    [
        (None, "nowhere.py:make_model", ["there is no file nowhere.py"]),
        (MODEL, ":other", ["own.py has no function 'other'", "make_model, of_zeros, raises, nothing"]),
        (MODEL, ":raises", ["raises() in own.py raised", "RuntimeError: no luck", "line 12"]),
        (MODEL, ":nothing", ["nothing() in own.py returned None", "nn.Module"]),
        (
            "import nonsense_that_is_not_there\n",
            "",
            ["own.py cannot be loaded", "nonsense_that_is_not_there", "line 1"],
        ),
        ("def make_model(:\n", "", ["own.py cannot be loaded", "SyntaxError", "line 1"]),
        ("raise SystemExit(3)\n", "", ["own.py cannot be loaded", "SystemExit: 3"]),
        (MODEL + "\ndef make_batch():\n    return 5\n", "", ["make_batch() in own.py returned a int", "pair (x, y)"]),
        (MODEL.replace("64, 40)", "63, 40)"), "", ["the batch does not fit own.py:make_model", "expected 63"]),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_message_and_ends_with_4(text, spec, said, run, file, tmp_path):
    code, out, err = run(spec if text is None else file(text) + spec)
    assert (code, out) == (4, "")
    assert "Traceback" not in err and len(err.splitlines()) == 3
    for words in said:
        assert words in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenet6"], "did you mean 'lenet5'"),
        (["lenet5", "--depth", "3"], "--depth and --width are of the mlp"),
        (["mlp", "--batch", "1"], "at least 2"),
        (["mlp", "--depth", "0"], "--depth and --width count layers and units, at least 1; got 0"),
        (["mlp", "--width", "-5"], "at least 1; got -5"),
        (["mlp", "--init", "he_norml"], "did you mean 'he_normal'"),
        (["mlp", "--activation", "rellu"], "did you mean 'relu'"),
    ],
)
def test_a_wrong_argument_is_named(arguments, said, run):
    code, _, err = run(*arguments)
    assert code == 4
    assert said in err


def test_the_results_hold_the_records_of_the_trial_and_the_report_its_line(run, tmp_path):
    code, out, _ = run("mlp", "--depth", "3", "--width", "50")
    document = json.loads((tmp_path / "out" / "diagnose-001" / "results.json").read_text())
    (record,) = document["trial"]
    assert record["rate"] == 0.01 and 4 <= record["steps"] < 100 and 0 < record["lowest"] < 2.1
    assert f"trial      the loss falls to {record['lowest']:.3g} in {record['steps']} steps at rate 0.01" in out
    assert code == 0 and "T1" in {f["rule"] for f in document["findings"]}


def test_a_trial_of_no_steps_leaves_its_rule_out(run):
    document = json.loads(run("mlp", "--depth", "3", "--width", "50", "--trial", "0", "--json")[1])
    assert document["trial"] is None
    assert {"rule": "T1", "why": "no trial was asked for"} in document["skipped"]
    assert "T1" not in {f["rule"] for f in document["findings"]}


def test_as_many_steps_as_are_asked_for_are_made_at_each_rate_and_a_loss_that_is_not_finite_is_null(run):
    scheme = "normal(std=1e20)"
    out = run("mlp", "--depth", "3", "--width", "50", "--init", scheme, "--trial", "4", "--json")[1]
    records = json.loads(out, parse_constant=lambda name: pytest.fail(name))["trial"]
    assert records == [{"rate": rate, "steps": 1, "lowest": None} for rate in (0.01, 0.1, 0.001)]
    out = run("mlp", "--depth", "3", "--width", "50", "--init", "zeros", "--trial", "4", "--json")[1]
    assert [record["steps"] for record in json.loads(out)["trial"]] == [4, 4, 4]


@pytest.mark.parametrize("target", ["mlp", "nowhere.py"])
def test_a_negative_trial_is_named_before_anything_is_loaded(target, run, tmp_path):
    code, out, err = run(target, "--trial", "-1")
    assert (code, out) == (4, "")
    assert (
        "trial is how many steps are tried at each rate, 0 for no trial; got -1" in err and len(err.splitlines()) == 3
    )
    assert not (tmp_path / "out").exists()


def test_options_of_built_in_networks_are_refused_for_a_file(run, file):
    code, _, err = run(file(MODEL), "--activation", "tanh")
    assert code == 4
    assert "--activation" in err
