"""The comparison and the variance command: records, verdicts, results file, repetition, output."""

import json
import math
import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import DEVICE

from minidl import cli, experiment, init, text, train
from minidl.experiment import Comparison, compare, variance, verdict
from minidl.experiment.grid import initializer
from minidl.lab import Report

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--depth", "3", "--width", "12", "--epochs", "1", "--schemes", "He", "zeros", "N(0, 0.01²)"]


def report(signal=(1.0, 1.0, 1.0), gradient=(1.0, 1.0, 1.0), twins=(0, 0, 0), dead=(0, 0, 0), classes=10):
    """A report made by hand: per hidden layer a dense one and a ReLU, then the output."""
    records = []
    for s, g, t, d in zip(signal, gradient, twins, dead, strict=True):
        dense = {"weight_std": 1.0, "rms": s, "batch_std": s, "delta_rms": g, "twins": t, "dead": None}
        records += [dense, {"weight_std": None, "dead": d}]
    output = {"weight_std": 1.0, "rms": 1.0, "batch_std": 1.0, "delta_rms": 1.0, "twins": 0, "dead": None}
    return Report([*records, output | {"shape": (classes,)}], loss=2.3)


def result(train_accuracy=0.1, diverged_at_step=None):
    return {"train_accuracy": train_accuracy, "diverged_at_step": diverged_at_step}


# ---------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.host("words for numbers")
@pytest.mark.parametrize(
    ("measured", "trained", "word"),
    [
        (report(), result(0.9), "trains"),
        (report(signal=(1, 1e-3, 1e-6)), result(0.56), "trains"),
        (report(signal=(1, 1e-3, 1e-6)), result(0.54), "vanishes"),
        (report(classes=2), result(0.74), "slow"),
        (report(classes=2), result(0.76), "trains"),
        (report(signal=(1, 10, 100)), result(0.1), "explodes"),
        (report(signal=(1, 0.5, 0.25), gradient=(100, 10, 1)), result(0.1), "explodes"),
        (report(signal=(1, 2, 4), gradient=(1, 10, 100)), result(0.1), "vanishes"),
        (report(signal=(1, math.inf, math.nan)), result(0.1), "explodes"),
        (report(signal=(1, 0, 0), gradient=(0, 0, 1)), result(0.1), "vanishes"),
        (report(), result(0.9, diverged_at_step=3), "explodes"),
        (report(twins=(1, 1, 1), signal=(1, 10, 100)), result(0.1), "symmetric"),
        (report(twins=(1, 1, 0.5), signal=(1, 10, 100)), result(0.1), "explodes"),
        (report(twins=(1, 1, 1)), result(0.9), "trains"),
        (report(dead=(0.5, 1, 0)), result(0.1), "dead"),
        (report(dead=(0.5, 0.99, 0), signal=(1, 0.1, 0.01)), result(0.1), "vanishes"),
        (report(dead=(1, 1, 1), twins=(1, 1, 1)), result(0.1), "symmetric"),
    ],
)
def test_the_verdict_of_a_report_and_a_result(measured, trained, word):
    assert verdict(measured, trained, depth=3) == word


CASES = {
    "trains": ("He", "relu", 2),
    "vanishes": (init.normal(std=0.01), "tanh", 12),
    "explodes": (init.normal(std=1.0), "relu", 20),
    "symmetric": (init.constant(value=0.1), "tanh", 4),
    "dead": (init.uniform(low=-0.3, high=-0.1), "relu", 3),
}


@pytest.mark.parametrize("word", CASES)
def test_real_networks_earn_each_word(word):
    scheme, activation, depth = CASES[word]
    schemes = ["He"] if scheme == "He" else {"case": scheme}
    found = compare(schemes, [activation], depth=depth, width=40, epochs=3, device=DEVICE)
    assert [r["verdict"] for r in found.records] == [word]


def test_the_verdict_looks_at_the_training_part_and_not_at_the_test(monkeypatch):
    """The records with other test results have the same verdicts."""
    honest = compare(["He", "zeros"], ["relu"], depth=2, width=12, epochs=2, device=DEVICE)
    real = train.evaluate

    def without_test(model, dataset, *args, **kwargs):
        found = real(model, dataset, *args, **kwargs)
        return found if len(dataset) == 1200 else dict.fromkeys(found, 0.0)

    monkeypatch.setattr(train, "evaluate", without_test)
    blind = compare(["He", "zeros"], ["relu"], depth=2, width=12, epochs=2, device=DEVICE)
    assert {r["test_accuracy"] for r in blind.records} == {0.0}
    assert [r["verdict"] for r in blind.records] == [r["verdict"] for r in honest.records]


# ------------------------------------------------------------------------------------------------------ compare


@pytest.fixture(scope="module")
def small():
    """Three schemes and two activations, one epoch."""
    return compare(["He", "zeros", "N(0, 0.01²)"], ["tanh", "relu"], depth=3, width=12, epochs=1, device=DEVICE)


@pytest.mark.host("looks at what the fixture computed")
def test_there_is_one_flat_record_per_scheme_and_activation(small):
    cells = [(r["activation"], r["scheme"]) for r in small.records]
    assert cells == [(a, s) for a in ("tanh", "relu") for s in ("He", "zeros", "N(0, 0.01²)")]
    keys = "scheme activation seed rms signal gradient train_loss train_accuracy test_loss test_accuracy "
    assert {tuple(r) for r in small.records} == {(*keys.split(), "diverged_at_step", "verdict")}
    assert small.reports.keys() == {(r["scheme"], r["activation"]) for r in small.records}


@pytest.mark.host("looks at what the fixture computed")
def test_the_factors_of_a_record_are_those_of_its_report(small):
    for r in small.records:
        changes = small.reports[r["scheme"], r["activation"]].changes()
        assert {k: r[k] for k in changes} == changes


@pytest.mark.host("looks at what the fixture computed")
def test_settings_say_all_that_the_cells_share(small):
    expected = {"dataset": "digits", "depth": 3, "width": 12, "epochs": 1, "lr": 0.01, "batch_size": 64, "seed": 0}
    assert small.settings == expected | {"optimizer": "SGD, momentum 0.9"}


@pytest.mark.host("looks at what the fixture computed")
def test_the_table_has_a_line_per_cell_and_fits_in_100_columns(small):
    lines = str(small).splitlines()
    assert len(lines) == 2 + 6 and max(map(len, lines)) <= 100
    for record, line in zip(small.records, lines[2:], strict=True):
        assert line.startswith(record["scheme"]) and line.endswith(record["verdict"])
        assert f"{100 * record['test_accuracy']:.1f} %" in line


def test_all_cells_start_from_the_same_draws():
    """The weights of a cell depend on the seed and its own scheme, and not on the cells before it."""
    options = {"depth": 2, "width": 12, "epochs": 1, "device": DEVICE}
    alone = compare(["He"], ["relu"], **options)
    among = compare(["zeros", "He"], ["tanh", "relu"], **options)
    assert alone.records[0] == among.records[-1]


def test_the_defaults_are_the_eight_schemes_and_three_activations():
    labels = ["zeros", "constant 0.1", "N(0, 0.01²)", "N(0, 1)", "Glorot", "He", "He truncated", "orthogonal"]
    found = compare(depth=1, width=4, epochs=1, batch_size=600, device=DEVICE)
    assert [(r["activation"], r["scheme"]) for r in found.records] == [
        (a, s) for a in ("sigmoid", "tanh", "relu") for s in labels
    ]


def test_schemes_may_be_names_labels_or_initializers_of_ones_own():
    options = {"depth": 1, "width": 8, "epochs": 1, "batch_size": 300, "device": DEVICE}
    label = compare(["He"], ["relu"], **options).records[0]
    name = compare("he_normal", "relu", **options).records[0]
    own = compare({"mine": init.he_normal()}, ["relu"], **options).records[0]
    assert (name["scheme"], own["scheme"]) == ("he_normal", "mine")
    assert label | {"scheme": ""} == name | {"scheme": ""} == own | {"scheme": ""}


@pytest.mark.parametrize("scheme", ["normal(std=0.05)", "N(0, 0.05²)", "He cut, Keras 2.0.9", "article: Kaiming"])
def test_the_quick_comparison_reads_schemes_as_an_experiment_does(scheme):
    options = {"depth": 1, "width": 8, "epochs": 1, "batch_size": 600, "device": DEVICE}
    (read,) = compare([scheme], ["tanh"], **options).records
    (meant,) = compare({scheme: initializer(scheme, "tanh")}, ["tanh"], **options).records
    assert read == meant and read["scheme"] == scheme


def test_variance_reads_schemes_as_an_experiment_does():
    found = variance("relu", "He cut, Keras 2.0.9", depth=2, width=8, device=DEVICE)
    assert found.settings["scheme"] == "He cut, Keras 2.0.9"
    same = variance("relu", initializer("He cut, Keras 2.0.9"), depth=2, width=8, device=DEVICE)
    assert found.records == same.records


def test_schemes_may_come_from_a_generator_and_are_compared_under_every_activation():
    found = compare((name for name in ("He", "zeros")), ["relu", "tanh"], depth=1, width=4, epochs=1, device=DEVICE)
    assert [(r["scheme"], r["activation"]) for r in found.records] == [
        ("He", "relu"),
        ("zeros", "relu"),
        ("He", "tanh"),
        ("zeros", "tanh"),
    ]


def test_an_activation_named_twice_is_trained_once():
    found = compare(["He"], ["relu", "relu"], depth=1, width=4, epochs=1, batch_size=600, device=DEVICE)
    assert len(found.records) == 1


def test_a_network_that_dies_is_a_result_and_the_others_go_on():
    schemes = {"too large": init.normal(std=3.0), "good": init.he_normal()}
    with warnings.catch_warnings(action="error"):  # nor is a warning shown
        found = compare(schemes, ["relu"], depth=60, width=30, epochs=1, device=DEVICE)
    dead, alive = found.records
    assert dead["diverged_at_step"] == 1 and dead["verdict"] == "explodes" and dead["rms"] == math.inf
    assert alive["diverged_at_step"] is None
    assert str(found) and found.figure()


@pytest.mark.host("a name is looked up")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schemes": ["He", "he_norml"]}, "unknown scheme 'he_norml'; did you mean 'he_normal'"),
        ({"activations": ["tanh", "rleu"]}, "unknown activation 'rleu'; did you mean 'relu'"),
        ({"dataset": "digit"}, "unknown data set 'digit'; did you mean 'digits'"),
        ({"depth": 0}, "number of hidden layers, at least 1; got 0"),
        ({"depth": -3}, "number of hidden layers, at least 1; got -3"),
    ],
)
def test_a_wrong_name_is_reported_before_anything_is_computed(arguments, message, monkeypatch):
    monkeypatch.setattr(sys.modules["minidl.experiment.compare"], "probe", lambda *_: pytest.fail("computed"))
    with pytest.raises(ValueError, match=message):
        compare(**arguments)


# ------------------------------------------------------------------------------------------------------ variance


@pytest.mark.parametrize(
    ("activation", "scheme", "title"),
    [
        ("relu", None, "he_normal, relu: 4 hidden layers of width 20 on digits, before training"),
        ("tanh", "orthogonal", "orthogonal, tanh: 4 hidden layers of width 20 on digits, before training"),
    ],
)
def test_variance_probes_one_network_on_training_examples(activation, scheme, title):
    found = variance(activation, scheme, depth=4, width=20, device=DEVICE)
    assert found.title == title and len(found.ladder("rms")) == 4
    assert found.settings["scheme"] == title.split(",")[0] and found.settings["batch"] == 256


def test_variance_of_an_exploding_network_is_shown_and_not_raised():
    with warnings.catch_warnings(action="error"):
        found = variance("relu", init.normal(std=30.0), depth=40, width=20, device=DEVICE)
    assert found.changes()["rms"] == math.inf and found.figure()


@pytest.mark.host("a name is looked up")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "rleu"}, "did you mean 'relu'"),
        ({"scheme": "he_norml"}, "did you mean 'he_normal'"),
        ({"depth": 0}, "at least 1; got 0"),
    ],
)
def test_variance_refuses_wrong_names(arguments, message):
    with pytest.raises(ValueError, match=message):
        variance(**arguments)


# ----------------------------------------------------------------------------------------------- the two commands


def host_command(function):
    """The command line computes on the host, or on a real GPU."""
    return pytest.mark.host("the command line")(function)


COMMANDS = {"compare": SMALL, "variance": ["--depth", "4", "--width", "20", "--activation", "tanh"]}
both = pytest.mark.parametrize("command", COMMANDS)


def run(command, tmp_path, *more):
    return cli.main([command, *COMMANDS[command], "--backend", "numpy", "--out", str(tmp_path), *more])


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def results(tmp_path, command, number=1):
    path = tmp_path / f"{command}-{number:03d}" / "results.json"
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@both
@host_command
def test_a_command_writes_figure_and_results_and_says_where(command, tmp_path, capsys):
    assert run(command, tmp_path) == 0
    folder = tmp_path / f"{command}-001"
    assert sorted(path.name for path in folder.iterdir()) == sorted([f"{command}.png", "results.json"])
    printed = capsys.readouterr().out
    for path in folder.iterdir():
        assert str(path) in printed
    document = results(tmp_path, command)
    assert document["schema"] == f"minidl.{command}/1" and document["version"]
    assert printed.rstrip().endswith(f"repeat   {document['command']}")


@both
@host_command
def test_the_command_in_the_results_gives_the_same_records_again(command, tmp_path):
    run(command, tmp_path)
    first = results(tmp_path, command)
    program, *arguments = shlex.split(first["command"])
    assert program == "minidl" and cli.main(arguments) == 0
    second = results(tmp_path, command, 2)
    assert second["records"] == first["records"] and second["command"] == first["command"]


@both
@host_command
def test_another_seed_gives_other_records(command, tmp_path):
    run(command, tmp_path)
    run(command, tmp_path, "--seed", "1")
    assert results(tmp_path, command)["records"] != results(tmp_path, command, 2)["records"]


@both
@host_command
def test_json_prints_one_document_and_nothing_else(command, tmp_path, capsys):
    assert run(command, tmp_path, "--json") == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out, parse_constant=refuse)
    assert captured.err == ""
    folder = document.pop("folder")
    assert document == results(tmp_path, command) and (Path(folder) / f"{command}.png").exists()


@host_command
def test_what_is_not_finite_is_null_in_the_results(tmp_path):
    big = ["--depth", "60", "--width", "100", "--epochs", "1", "--schemes", "N(0, 1)", "--activations", "relu"]
    assert cli.main(["compare", *big, "--backend", "numpy", "--out", str(tmp_path), "-q"]) == 0
    (record,) = results(tmp_path, "compare")["records"]
    assert record["rms"] is None and record["diverged_at_step"] == 1 and record["verdict"] == "explodes"


@both
@host_command
def test_quiet_prints_the_table_alone(command, tmp_path, capsys):
    run(command, tmp_path, "-q")
    printed = capsys.readouterr().out
    assert str(tmp_path) not in printed and "repeat" not in printed and printed.strip()


@host_command
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compare", "--schemes", "he_norml"], 4, "did you mean 'he_normal'"),
        (["compare", "--activations", "rleu"], 4, "did you mean 'relu'"),
        (["compare", "--data", "digit"], 4, "did you mean 'digits'"),
        (["compare", "--seed", "-1"], 4, "seed"),
        (["compare", "--depth", "0"], 4, "at least 1; got 0"),
        (["compare", "--lr", "nan", "--depth", "1"], 4, "learning rate must be positive; got lr=nan"),
        (["variance", "--init", "he_norml"], 4, "did you mean 'he_normal'"),
        (["variance", "--activation", "rleu"], 4, "did you mean 'relu'"),
        (["variance", "--width", "0"], 4, "at least 1; got 0"),
    ],
)
def test_bad_input_ends_with_its_code_and_leaves_no_folder(arguments, code, message, tmp_path, capsys):
    assert cli.main([*arguments, "--backend", "numpy", "--out", str(tmp_path / "out")]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err
    assert not (tmp_path / "out").exists()


def in_a_shell(command, tmp_path, **environment):
    """The command in a process of its own, its output in pipes; bytes."""
    return subprocess.run(
        [sys.executable, "-m", "minidl", command, *COMMANDS[command], "--backend", "numpy", "--out", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
    )


@both
@host_command
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_in_a_pipe_of_any_encoding_there_is_a_table_and_no_remark(command, encoding, tmp_path):
    answer = in_a_shell(command, tmp_path, PYTHONIOENCODING=encoding)
    assert answer.returncode == 0 and answer.stderr == b""
    printed = answer.stdout.decode(encoding)
    lines = printed.splitlines()
    assert set(lines[1]) == {"-", " "} and "\r" not in printed.replace("\r\n", "")
    if command == "compare":
        label = {"utf-8": "N(0, 0.01²)", "cp1252": "N(0, 0.01²)", "ascii": "N(0, 0.01^2)"}[encoding]
        assert sum(line.startswith(label) for line in lines) == 3


@host_command
def test_progress_is_shown_on_a_terminal_and_not_when_quiet(monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    options = {"depth": 1, "width": 4, "epochs": 1, "batch_size": 600}
    experiment.compare(["He"], ["relu"], **options, quiet=True)
    assert capfd.readouterr().err == ""
    experiment.compare(["He"], ["relu"], **options)
    assert "networks" in capfd.readouterr().err


@pytest.mark.host("text for people")
def test_a_square_stays_a_square_in_ascii():
    assert text.plain("N(0, 0.01²), σ², x³") == "N(0, 0.01^2), var, x^3"


# ------------------------------------------------------------------------------------------------------ the figure


@pytest.mark.host("looks at what the fixture computed")
def test_the_figure_has_one_panel_per_activation_and_quantity_and_one_line_per_scheme(small):
    fig = small.figure()
    assert len(fig.axes) == 4
    titles = [ax.get_title() for ax in fig.axes]
    assert titles == ["tanh", "relu", "", ""]
    for ax, (activation, key) in zip(
        fig.axes, [(a, k) for k in ("batch_std", "delta_rms") for a in ("tanh", "relu")], strict=True
    ):
        lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
        assert list(lines) == ["He", "zeros", "N(0, 0.01²)"]
        ladder = small.reports["He", activation].ladder(key)
        np.testing.assert_allclose(lines["He"].get_ydata(), ladder)
        assert ax.get_yscale() == "log"


@pytest.mark.host("drawn from numbers")
def test_the_panels_of_a_row_share_limits_that_cover_all_of_them():
    tall, flat = report(signal=(1e-6, 1.0, 1e6), gradient=(1.0, 1e-6, 1e6)), report()
    records = [{"scheme": "He", "activation": activation} for activation in ("tanh", "relu")]
    settings = {"depth": 3, "width": 4, "dataset": "digits"}
    axes = Comparison(records, settings, {("He", "tanh"): tall, ("He", "relu"): flat}).figure().axes
    for left, right in (axes[:2], axes[2:]):
        assert left.get_ylim() == right.get_ylim()
        assert left.get_ylim()[0] < 1e-6 and left.get_ylim()[1] > 1e6


@pytest.mark.host("looks at what the fixture computed")
def test_a_scheme_whose_signal_is_zero_has_a_cross_at_the_bottom_of_the_first_layer(small):
    for ax in small.figure().axes[:2]:
        crosses = [line for line in ax.lines if line.get_marker() == "x"]
        (zeros,) = [line for line in ax.lines if line.get_label() == "zeros"]
        own = [line for line in crosses if line.get_color() == zeros.get_color()]
        assert [list(line.get_xdata()) for line in own] == [[1]]


@pytest.mark.host("looks at what the fixture computed")
def test_the_legend_names_every_scheme_once(small):
    (legend,) = small.figure().legends
    assert [t.get_text() for t in legend.get_texts()] == ["He", "zeros", "N(0, 0.01²)"]
