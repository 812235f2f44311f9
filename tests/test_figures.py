"""The figures of the laboratory: their numbers are those of closed forms and published tables; no setting changes."""

import csv
import importlib.util
import itertools
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from minidl import init, lab, meanfield, models, nn
from minidl.lab.figures import base
from minidl.lab.figures.spectrum import lyapunov

pytestmark = pytest.mark.host("figures are drawn on the host")

matplotlib.use("Agg")
SETTINGS = dict(matplotlib.rcParams)  # before anything is drawn
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


# --------------------------------------------------------------------------------------------- reports made by hand


def record(layer="layer", kind="Linear", **values):
    """One record of a probe, with what a figure reads."""
    keys = ("mean", "rms", "std", "batch_std", "second_moment", "dead", "saturated", "delta_rms", "weight_std")
    found = dict.fromkeys((*keys, "weight_grad_rms", "nonfinite")) | {"layer": layer, "kind": kind, "shape": (4,)}
    return found | values


def ladder_report(rms, batch_std=None, delta=None, gradient=None, names="linear{}"):
    """A report of hidden layers with these numbers, and the scores behind them."""
    lines = [rms, batch_std or rms, delta or rms[::-1], gradient or rms]
    records = [
        record(names.format(i), rms=r, batch_std=b, delta_rms=d, weight_grad_rms=g, weight_std=1.0)
        for i, (r, b, d, g) in enumerate(zip(*lines, strict=True), start=1)
    ]
    last = record("output", rms=1.0, batch_std=1.0, delta_rms=1.0, weight_std=1.0, weight_grad_rms=1.0)
    return lab.Report([*records, last], 1.0)


def histogram(layer, density, low=0.0, high=1.0, **more):
    edges = np.linspace(low, high, len(density) + 1)
    return [
        {"layer": layer, "low": float(a), "high": float(b), "density": float(d), **more}
        for a, b, d in zip(edges[:-1], edges[1:], density, strict=True)
    ]


def bins_of(layer, values, bins=40, **more):
    density, edges = np.histogram(values, bins, density=True)
    return histogram(layer, density, edges[0], edges[-1], **more)


def with_histograms(*layers):
    """Report of layers (record, values)."""
    report = lab.Report([r for r, _ in layers], 1.0)
    report.histograms = [b for r, values in layers for b in bins_of(r["layer"], values)]
    return report


def with_jacobian(values):
    report = lab.Report([], 1.0)
    report.jacobian = [
        {"layer": f"linear{i}", "index": j, "value": v} for i, row in enumerate(values, 1) for j, v in enumerate(row)
    ]
    return report


def predicted(report, **changes):
    """A prediction with the report's own numbers, but for the given ones: key -> one value per weighted layer."""
    rows, place = [], 0
    for r in report.records:
        row = {**r, "rms_low": None, "rms_high": None}
        if r["weight_std"] is not None and place < min(map(len, changes.values()), default=0):
            row |= {key: values[place] for key, values in changes.items()}
            place += 1
        rows.append(row)
    return SimpleNamespace(records=rows)


def axes():
    return Figure().subplots()


def texts(ax):
    return [t.get_text() for t in ax.texts] + [ax.get_title()]


# ------------------------------------------------------------------------------------------------- every figure

rng = np.random.default_rng(0)
HALVED = [0.5 ** (i / 2) for i in range(30)]  # rms of Glorot's weights under ReLU
NORMAL = rng.standard_normal(4000)


def small_model(depth=4, scheme="he_normal"):
    return models.mlp([12] * (depth + 1) + [3], "relu", scheme)


def ridge(*kinds):
    return lab.Ridgeline.from_report(
        with_histograms(*((record(f"{k.lower()}{i}", k, rms=1.0), NORMAL) for i, k in enumerate(kinds)))
    )


def heat(steps=(0, 10, 20), names=("tanh1", "tanh2")):
    looks = [bins_of(n, NORMAL * (1 + s), step=s) for s in steps for n in names]
    return lab.TrainingHeatmap.from_records([b for look in looks for b in look])


def scores(*values):
    return lab.Scoreboard(
        [lab.Score(f"scheme {i}", v, claimed=0.5, predicted=(0.1, 0.2)) for i, v in enumerate(values)]
    )


def ribbon(accuracies, rates=(1e-3, 1e-2, 1e-1)):
    rows = [
        {"scheme": "He", "optimizer": "Adam", "lr": lr, "test_accuracy": a}
        for lr, a in zip(rates, accuracies, strict=True)
    ]
    return lab.RateRibbon.from_records(rows)


def before_after(before, after, name="layer{}"):
    names = [name.format(i) for i in range(len(before))]
    return lab.BeforeAfter(names, before, after, "LSUV")


USUAL = {
    "SignalLadder": lambda: lab.SignalLadder.from_report(ladder_report(HALVED)),
    "GradientTwins": lambda: lab.GradientTwins.from_report(ladder_report(HALVED)),
    "IdentityMatrix": lambda: lab.IdentityMatrix.from_weight(rng.standard_normal((6, 20)), "six units"),
    "BeforeAfter": lambda: lab.BeforeAfter.from_model(small_model(), lambda m: None, "nothing"),
    "Scoreboard": lambda: scores([0.97, 0.98, 0.99], [0.5]),
    "RateRibbon": lambda: ribbon([0.2, 0.9, 0.1]),
    "PhaseDiagram": lambda: lab.PhaseDiagram.from_activation("tanh", network=(1.6, 0.3)),
    "Cobweb": lambda: lab.Cobweb.correlation("relu", math.sqrt(2), depth=10),
    "Spectrum": lambda: lab.Spectrum.from_report(with_jacobian([[2.0, 1.0, 0.5]] * 4), "gaussian"),
    "Ridgeline": lambda: ridge("Tanh", "Tanh"),
    "TrainingHeatmap": heat,
}
NAN, ZERO = [math.nan] * 5, [0.0] * 5
LONG = "stages.0.blocks.11.a_very_long_name_of_a_layer.conv{}.weight"
EXTREME = {
    "ladder, one layer": lambda: lab.SignalLadder.from_report(ladder_report([1.0])),
    "ladder, 100 layers with long names": lambda: lab.SignalLadder.from_report(ladder_report([1.0] * 100, names=LONG)),
    "ladder, NaN": lambda: lab.SignalLadder.from_report(ladder_report(NAN)),
    "ladder, zero": lambda: lab.SignalLadder.from_report(ladder_report(ZERO)),
    "ladder, no hidden layer": lambda: lab.SignalLadder.from_report(ladder_report([])),
    "twins, one layer": lambda: lab.GradientTwins.from_report(ladder_report([1.0])),
    "twins, 100 layers": lambda: lab.GradientTwins.from_report(ladder_report([0.5**i for i in range(100)])),
    "twins, NaN": lambda: lab.GradientTwins.from_report(ladder_report(NAN)),
    "twins, zero": lambda: lab.GradientTwins.from_report(ladder_report(ZERO)),
    "twins, no hidden layer": lambda: lab.GradientTwins.from_report(ladder_report([])),
    "identity, zero": lambda: lab.IdentityMatrix.from_weight(np.zeros((5, 4))),
    "identity, NaN": lambda: lab.IdentityMatrix.from_weight(np.full((5, 4), math.nan)),
    "identity, one unit": lambda: lab.IdentityMatrix.from_weight(np.ones((1, 4))),
    "before and after, one layer": lambda: before_after([1.0], [2.0]),
    "before and after, 100 layers": lambda: before_after([1.0] * 100, [2.0] * 100, LONG),
    "before and after, NaN": lambda: before_after(NAN, NAN),
    "before and after, zero": lambda: before_after(ZERO, [1e30] * 5),
    "scoreboard, NaN": lambda: scores([math.nan] * 3, [math.nan]),
    "scoreboard, perfect": lambda: scores([1.0, 1.0]),
    "scoreboard, zero": lambda: lab.Scoreboard([lab.Score("nothing", [0.0])]),
    "ribbon, one rate": lambda: ribbon([0.9], [0.1]),
    "ribbon, NaN": lambda: ribbon([math.nan, None, math.nan]),
    "ribbon, zero": lambda: ribbon([0.0, 0.0, 0.0]),
    "phase, relu": lambda: lab.PhaseDiagram.from_activation("relu", network=(50.0, 9.0)),
    "phase, sigmoid": lambda: lab.PhaseDiagram.from_activation("sigmoid"),
    "cobweb, one layer": lambda: lab.Cobweb.variance("tanh", 1.0, depth=1),
    "cobweb, zero": lambda: lab.Cobweb.variance("tanh", 1.0, start=0.0, depth=5),
    "cobweb, 100 layers": lambda: lab.Cobweb.correlation("relu", math.sqrt(2), depth=100),
    "spectrum, one layer, one value": lambda: lab.Spectrum.from_report(with_jacobian([[1.0]])),
    "spectrum, 100 layers": lambda: lab.Spectrum.from_report(with_jacobian([[2.0**-i, 4.0**-i] for i in range(100)])),
    "spectrum, NaN": lambda: lab.Spectrum.from_report(with_jacobian([[math.nan] * 3] * 2)),
    "spectrum, zero": lambda: lab.Spectrum.from_report(with_jacobian([[0.0] * 3] * 2), "orthogonal"),
    "spectrum, nothing": lambda: lab.Spectrum.from_report(with_jacobian([])),
    "ridgeline, one layer": lambda: ridge("ReLU"),
    "ridgeline, 100 layers": lambda: ridge(*["Sigmoid"] * 100),
    "ridgeline, all in one bin": lambda: lab.Ridgeline.from_report(
        with_histograms((record("relu1", "ReLU", rms=0.0, dead=1.0), np.zeros(5)))
    ),
    "ridgeline, NaN": lambda: lab.Ridgeline.from_report(
        SimpleNamespace(
            records=[record("tanh1", "Tanh", rms=math.nan, nonfinite=1.0)],
            histograms=histogram("tanh1", [0.0], math.nan, math.nan),
            title="",
        ),
        SimpleNamespace(records=[record("tanh1", "Tanh", second_moment=1.0)]),
    ),
    "heat map, one look": lambda: heat([0], ["tanh1"]),
    "heat map, long names": lambda: heat(names=[LONG.format(i) for i in range(9)]),
    "heat map, NaN": lambda: lab.TrainingHeatmap.from_records(
        histogram("tanh1", [0.0], math.nan, math.nan, step=0) + histogram("tanh1", [1.0, 1.0, 1.0], step=5)
    ),
    "heat map, nothing": lambda: lab.TrainingHeatmap.from_records([]),
}


def made(name):
    return (USUAL | EXTREME)[name]()


def test_every_figure_of_the_laboratory_is_tested_here():
    from minidl.lab import figures

    assert set(USUAL) == set(figures.__all__) - {"Display", "Score"}
    assert all(getattr(lab, name) is getattr(figures, name) for name in USUAL)


@pytest.mark.parametrize("name", EXTREME)
def test_extreme_numbers_can_be_drawn_and_written(name, tmp_path):
    """One layer or a hundred, NaN, zeros, one sample, long names."""
    figure = made(name)
    figure.figure().draw_without_rendering()
    base.write_csv(tmp_path / "a.csv", figure.records)
    assert len(written(tmp_path / "a.csv")) == len(figure.records)


def test_an_empty_scoreboard_is_drawn_without_a_warning(recwarn):
    lab.Scoreboard([]).figure()
    assert not recwarn.list


def written(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", USUAL)
def test_a_figure_is_saved_on_opaque_white_with_its_numbers_beside(name, tmp_path):
    figure = made(name)
    path = figure.save(tmp_path / "a.png")
    image = plt.imread(path)
    assert (image[..., 3] == 1).all() and image[0, 0].tolist() == [1, 1, 1, 1]
    rows = written(path.with_suffix(".csv"))
    assert len(rows) == len(figure.records) > 0
    for key, value in figure.records[-1].items():
        assert rows[-1][key] == ("" if value is None else str(value))
    assert dict(matplotlib.rcParams) == SETTINGS


@pytest.mark.parametrize("name", USUAL)
def test_axes_given_are_drawn_into_and_returned_and_pyplot_is_left_alone(name):
    figure, before = made(name), plt.get_fignums()
    ax = axes()
    assert figure.plot(ax) is ax and figure.plot(ax=ax) is ax
    assert ax.has_data()
    assert isinstance(figure.figure(), Figure)
    assert plt.get_fignums() == before and dict(matplotlib.rcParams) == SETTINGS
    assert figure.plot().figure.number in plt.get_fignums()
    assert dict(matplotlib.rcParams) == SETTINGS


@pytest.mark.parametrize("name", USUAL)
def test_in_a_dark_style_the_ground_is_white_and_the_text_black(name):
    figure = made(name)
    with plt.style.context("dark_background"):
        own = figure.plot()
        theirs = figure.plot(plt.figure().subplots())
        saved = figure.figure()
    assert (
        to_hex(own.figure.get_facecolor()) == to_hex(own.get_facecolor()) == to_hex(theirs.get_facecolor()) == "#ffffff"
    )
    labels = [own.title, own.xaxis.label, own.yaxis.label, *own.get_xticklabels(), *own.get_yticklabels()]
    assert {to_hex(label.get_color()) for label in labels} == {"#000000"}
    outside = [theirs.title, theirs.xaxis.label, *theirs.get_xticklabels()]  # on the user's black
    assert {to_hex(label.get_color()) for label in outside} == {"#ffffff"}
    assert to_hex(saved.get_facecolor()) == "#ffffff" and to_hex(saved.axes[0].title.get_color()) == "#000000"


@pytest.mark.parametrize("name", USUAL)
def test_no_text_is_smaller_than_9_points(name):
    figure = made(name).figure()
    found = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
    small = [t.get_text() for t in found if t.get_fontsize() < 9 and not re.fullmatch(r"\$.*", t.get_text())]
    assert not small


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_same_figure_gives_the_same_bytes(ending, tmp_path):
    paths = [made("SignalLadder").save(tmp_path / f"{name}.{ending}") for name in "ab"]
    assert dict(matplotlib.rcParams) == SETTINGS
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_another_ending_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"\.png, \.svg or \.pdf; got 'a\.jpg'"):
        made("Cobweb").save(tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


def test_importing_the_laboratory_does_not_import_matplotlib():
    code = "import sys; from minidl import lab; lab.SignalLadder; print('matplotlib' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_the_laboratory_lists_all_that_it_has_and_nothing_else():
    listed = dir(lab)
    assert {"probe", "predict", "diagnose", "diagnose_torch", "watch", "summary", "SignalLadder"} <= set(listed)
    assert not [name for name in listed if name.startswith("_")]
    assert all(callable(getattr(lab, name)) for name in listed)


# ------------------------------------------------------------------------------------------------- names at the edge


@pytest.mark.parametrize(
    "heights", [[0.5, 0.5, 0.5], [0.0, 0.01, 0.02], [0.99, 1.0], [0.1, 0.5, 0.9], [0.5, 0.51, 0.9]]
)
def test_names_at_the_edge_keep_their_distance_and_stay_inside(heights):
    sizes = [0.1] * len(heights)
    found = base._apart(heights, sizes)
    assert all(b - a >= 0.1 - 1e-12 for a, b in itertools.pairwise(found))
    assert found[0] >= 0.05 - 1e-12 and found[-1] <= 0.95 + 1e-12
    far = [b - a >= 0.2 for a, b in itertools.pairwise(heights)]
    if all(far) and heights[0] >= 0.05 and heights[-1] <= 0.95:
        assert found == pytest.approx(heights)


def test_a_long_name_keeps_its_beginning_and_its_end():
    assert base.short("stages.0.blocks.11.conv1.weight") == "stages.0.…1.weight"
    assert base.short("conv1") == "conv1"
    assert base.evenly(100, 5) == [0, 25, 50, 74, 99]
    assert base.evenly(3, 5) == [0, 1, 2]


# ------------------------------------------------------------------------------------------------------ signal ladder


def test_glorot_under_relu_loses_the_root_of_one_half_per_layer_and_thirty_layers_stall():
    """30 ln 2 = 20.8: the plain network of 30 layers of He et al. 2015 that stalls."""
    figure = lab.SignalLadder.from_report(ladder_report(HALVED))
    assert figure.changes["rms"] == pytest.approx(math.sqrt(0.5), rel=1e-12)
    assert figure.verdict == "×0.707 / layer, L·|ln χ| = 21: stalls"
    assert figure.verdict in texts(figure.plot(axes()))


def test_the_verdict_of_22_layers_is_slow_and_of_8_fine():
    assert lab.SignalLadder.from_report(ladder_report(HALVED[:22])).verdict.endswith("= 15: slow")
    assert lab.SignalLadder.from_report(ladder_report(HALVED[:8])).verdict.endswith("= 5.5: fine")


def test_there_is_no_tick_between_two_layers():
    for count in (1, 2, 3, 30):
        ax = lab.SignalLadder.from_report(ladder_report(HALVED[:count])).plot(axes())
        ax.figure.canvas.draw()
        assert all(tick == round(tick) for tick in ax.get_xticks()), ax.get_xticks()


def test_the_frame_names_the_quantity_that_suffers_first():
    """Xavier and sigmoid: the rms is level, the spread over inputs falls by 0.2361 per layer (science: √χ₁)."""
    level, falls = [0.5] * 10, [0.2361**i for i in range(10)]
    ladder = lab.SignalLadder.from_report(ladder_report(level, batch_std=falls, delta=level))
    assert ladder.verdict == "std over inputs ×0.236 / layer, L·|ln χ| = 29: stalls"
    grows = [1.0999**i for i in range(50)][::-1]
    ladder = lab.SignalLadder.from_report(ladder_report([1.0] * 50, delta=grows))
    assert ladder.verdict == "gradient ×1.10 / layer, L·|ln χ| = 9.5: slow"


def test_what_is_exactly_zero_or_not_finite_is_said_with_its_layer():
    ladder = lab.SignalLadder.from_report(ladder_report([1.0, 10.0, math.inf, math.nan]))
    assert ladder.verdict == "rms not finite from layer 3 on: explodes"
    ladder = lab.SignalLadder.from_report(ladder_report([0.0, 0.0]))
    assert ladder.verdict == "rms exactly 0 from layer 1 on: stalls"


def test_a_probe_of_glorot_and_relu_is_drawn_with_the_measured_factor_beside_theory():
    """ln of the mean square has variance 5/n per layer: over 20 layers of width 200 a standard error of 0.018."""
    model = models.mlp([200] * 21 + [10], "relu", "glorot_normal")
    x = np.random.default_rng(1).standard_normal((64, 200), dtype=np.float32)
    report, prediction = lab.probe(model, x, np.zeros(64, int)), lab.predict(model, x)
    figure = lab.SignalLadder.from_report(report, prediction)
    assert figure.changes["rms"] == pytest.approx(math.sqrt(0.5), rel=4 * 0.018)
    theory = figure.theory["rms"]
    assert theory[-1] / theory[0] == pytest.approx(0.5 ** (19 / 2), rel=0.05)  # from the weights as they were drawn
    assert figure.theory["delta_rms"][-1] == pytest.approx(figure.measured["delta_rms"][-1], rel=1e-12)
    assert all(a < v < b for a, v, b in zip(*(figure.theory[k] for k in ("rms_low", "rms", "rms_high")), strict=True))
    assert set(figure.records[0]) >= {"rms", "rms_theory", "delta_rms_theory", "rms_low", "rms_high"}


def test_theory_is_a_wide_pale_line_and_the_band_is_filled():
    report = ladder_report([1.0, 1.0, 1.0])
    theory = predicted(report, rms=[1.1, 1.2, 1.3], rms_low=[0.5] * 3, rms_high=[2.0] * 3, delta_rms=[4.0, 2.0, 1.0])
    figure = lab.SignalLadder.from_report(report, theory)
    ax = figure.plot(axes())
    wide = [line for line in ax.lines if line.get_linewidth() > 5]
    assert [1.1, 1.2, 1.3] in [list(line.get_ydata()) for line in wide]
    assert len(ax.collections) == 1
    assert figure.theory["delta_rms"] == [4.0, 2.0, 1.0]  # the measured one ends at 1


def test_the_three_lines_differ_in_dash_marker_and_colour():
    ax = made("SignalLadder").plot(axes())
    lines = [line for line in ax.lines if line.get_marker() in "os^" and len(line.get_xdata()) > 1]
    assert [line.get_linestyle() for line in lines] == ["-", "--", ":"]
    assert len({line.get_marker() for line in lines}) == len({line.get_color() for line in lines}) == 3


def test_a_prediction_of_another_model_is_refused():
    with pytest.raises(ValueError, match="both of the same model"):
        lab.SignalLadder.from_report(ladder_report([1.0, 1.0]), SimpleNamespace(records=[record("other")]))


# -------------------------------------------------------------------------------------------------------- twins


def test_the_twins_are_those_of_the_probe():
    """Science §0.2: Xavier and ReLU, 30 layers of width 64: δ falls 3e-5 : 0.68, ∂L/∂W is level."""
    model = models.mlp([64] * 31 + [10], "relu", "glorot_normal")
    x = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    report = lab.probe(model, x, np.arange(64) % 10)
    figure = lab.GradientTwins.from_report(report)
    assert list(figure.delta) == report.ladder("delta_rms") and list(figure.weight) == report.ladder("weight_grad_rms")
    delta, weight = figure.spans
    assert 1e-6 < delta < 1e-3 and 0.1 < weight < 10


def test_the_spans_are_first_over_last():
    figure = lab.GradientTwins.from_report(ladder_report([1.0] * 3, delta=[1e-4, 1e-2, 1.0], gradient=[2.0, 2.0, 2.0]))
    assert figure.spans == (1e-4, 1.0)
    assert any("×0.0100 / layer down" in text for text in texts(figure.plot(axes())))


# ------------------------------------------------------------------------------------------------- identity matrix


def test_cosines_are_those_of_the_rows():
    weight = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]], dtype=np.float32)
    half = math.sqrt(0.5)
    expected = [[1, 0, -1, half], [0, 1, 0, half], [-1, 0, 1, -half], [half, half, -half, 1]]
    figure = lab.IdentityMatrix.from_weight(weight)
    np.testing.assert_allclose(figure.cosines, expected, atol=1e-7)
    assert figure.mean == pytest.approx((1 + 3 * half) / 6)
    shown = figure.plot(axes()).images[-1].get_array()
    np.testing.assert_array_equal(shown, figure.cosines)


def test_a_kernel_is_compared_over_all_its_taps_and_a_parameter_is_taken_as_it_is():
    weight = np.zeros((2, 3, 3, 3), dtype=np.float32)
    weight[0, 0], weight[1, 1] = 1.0, 1.0
    np.testing.assert_allclose(lab.IdentityMatrix.from_weight(weight).cosines, np.eye(2), atol=1e-7)
    layer = nn.Linear(5, 3, init=init.constant(value=0.1))
    np.testing.assert_allclose(lab.IdentityMatrix.from_weight(layer.weight).cosines, np.ones((3, 3)), rtol=1e-6)


def test_independent_units_have_the_coherence_of_their_fan_in():
    """E|cos| = √(2/(πn)): 0.0499 at n = 256; the mean over 200·199/2 pairs is within 1 % of it."""
    figure = lab.IdentityMatrix.from_weight(np.random.default_rng(3).standard_normal((200, 256)))
    assert figure.expected == pytest.approx(0.0499, abs=5e-5)
    assert figure.mean == pytest.approx(figure.expected, rel=0.02)


def test_a_unit_of_zeros_has_no_direction_and_a_layer_of_zeros_says_so():
    shown = lab.IdentityMatrix.from_weight(np.array([[0.0, 0.0], [1.0, 2.0]])).cosines
    assert np.isnan(shown[0]).all() and np.isnan(shown[:, 0]).all() and shown[1, 1] == pytest.approx(1)
    assert any("no direction" in text for text in texts(made("identity, zero").plot(axes())))


def test_weights_near_the_ends_of_float32_have_their_cosines():
    weight = np.array([[1e30, 1e30], [1e30, -1e30], [1e-40, 1e-40]], dtype=np.float32)
    np.testing.assert_allclose(
        lab.IdentityMatrix.from_weight(weight).cosines, [[1, 0, 1], [0, 1, 0], [1, 0, 1]], atol=1e-6
    )


def test_a_bias_has_no_units_to_compare():
    with pytest.raises(ValueError, match=r"two axes, units and inputs; got shape \(3,\)"):
        lab.IdentityMatrix.from_weight(np.ones(3))


# -------------------------------------------------------------------------------------------------- before and after


def test_a_model_without_weights_has_an_empty_figure():
    figure = lab.BeforeAfter.from_model(nn.Sequential(relu=nn.ReLU()), lambda m: None, "nothing")
    assert figure.records == [] and figure.plot(axes()).get_title() == "nothing: the scale of every layer"


def test_the_scale_of_he_is_the_root_of_two_and_that_of_torch_the_root_of_a_third():
    model = models.mlp([300, 500, 200, 400], "relu", "torch_default")
    before = {path: w.data.copy() for path, w in model.named_parameters()}
    figure = lab.BeforeAfter.from_model(model, lambda m: init.apply(m, "he_normal"), "He")
    assert figure.layers == ("linear1", "linear2", "output")
    assert figure.before == pytest.approx([math.sqrt(1 / 3)] * 3, rel=0.013)  # 80 000 weights and more: 5 s.e.
    assert figure.after == pytest.approx([math.sqrt(2)] * 3, rel=0.013)
    for path, w in model.named_parameters():
        np.testing.assert_array_equal(w.data, before[path])  # the model is left as it was


def test_every_layer_is_a_line_from_before_to_after():
    ax = before_after([1.0, 2.0], [3.0, 4.0]).plot(axes())
    slopes = [
        list(line.get_ydata()) for line in ax.lines if list(line.get_xdata()) == [0, 1] and line.get_linestyle() == "-"
    ]
    assert slopes == [[1.0, 3.0], [2.0, 4.0]]
    assert any("√2" in text for text in texts(ax))


def test_a_scale_that_is_lost_is_marked_at_the_edge():
    ax = before_after([0.0, 1.0, math.nan], [1.0, 1.0, 1.0]).plot(axes())
    low, high = ax.get_ylim()
    crosses = sorted(line.get_ydata()[0] for line in ax.lines if line.get_marker() == "x")
    assert crosses == pytest.approx([low, high])


# ----------------------------------------------------------------------------------------------------- scoreboard


def test_98_and_99_per_cent_are_as_far_apart_as_50_and_75():
    ax = lab.Scoreboard([lab.Score(str(a), [a]) for a in (0.5, 0.75, 0.98, 0.99)]).plot(axes())
    places = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert places[1] - places[0] == pytest.approx(places[3] - places[2]) == pytest.approx(math.log10(2))


def test_claimed_is_hollow_predicted_a_tick_and_measured_a_bar_with_every_seed():
    score = lab.Score("zeros", [0.10, 0.12, 0.14], claimed=0.5, predicted=(0.1135, 0.1135))
    figure = lab.Scoreboard([score])
    ax = figure.plot(axes())
    place = lambda accuracy: pytest.approx(-math.log10(1 - accuracy))  # noqa: E731
    (claimed,) = [line for line in ax.lines if line.get_marker() == "D"]
    assert claimed.get_xdata()[0] == place(0.5) and claimed.get_markerfacecolor() == "none"
    (tick,) = [line for line in ax.lines if line.get_marker() == "|" and line.get_markersize() > 10]
    assert tick.get_xdata()[0] == place(0.1135)
    (seeds,) = [line for line in ax.lines if line.get_marker() == "|" and line.get_markersize() < 10]
    assert list(seeds.get_xdata()) == [place(v) for v in (0.10, 0.12, 0.14)]
    (bar,) = [line for line in ax.lines if line.get_marker() == "None" and line.get_linewidth() == 1.6]
    assert list(bar.get_xdata()) == [place(0.10), place(0.14)]  # mean 0.12, sample standard deviation 0.02
    assert {"claimed", "predicted", "measured"} <= set(texts(ax))
    assert figure.records[0]["sd"] == pytest.approx(0.02)


@pytest.mark.parametrize(("worst", "best"), [(0.194, 0.377), (0.363, 0.528), (0.9861, 0.9893), (0.5, 0.5)])
def test_a_narrow_accuracy_axis_has_three_round_numbers_at_their_places(worst, best):
    ax = lab.Scoreboard([lab.Score("a", [worst]), lab.Score("b", [best])]).plot(axes())
    places, numbers = ax.get_xticks(), [float(text.get_text()) for text in ax.get_xticklabels()]
    assert len(numbers) >= 3 and all(len(f"{number:g}".replace(".", "")) <= 4 for number in numbers)
    assert np.allclose(places, [-math.log10(1 - number / 100) for number in numbers], atol=1e-9)


def test_a_scheme_whose_networks_all_left_float32_is_marked_at_the_edge():
    ax = lab.Scoreboard([lab.Score("good", [0.9]), lab.Score("lost", [math.nan, math.nan])]).plot(axes())
    (cross,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert cross.get_ydata()[0] == 1


# ---------------------------------------------------------------------------------------------------------- ribbon


def test_the_window_is_the_longest_run_of_rates_that_train():
    figure = ribbon([0.9, 0.1, 0.6, 0.8, 0.7, None], [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    (row,) = figure.ribbons
    assert row.window == (1e-3, 1e-1) and row.decades == pytest.approx(2)
    assert row.best == 1e-5  # the best of all rates, inside the window or not
    assert [r["trains"] for r in figure.records] == [True, False, True, True, True, False]
    assert "2.0 decades" in texts(figure.plot(axes()))


def test_seeds_are_averaged_and_one_that_diverged_makes_the_rate_untrainable():
    rows = [
        {"scheme": "He", "optimizer": "SGD", "lr": lr, "test_accuracy": a}
        for lr, a in ((0.1, 0.4), (0.1, 0.8), (1.0, 0.9), (1.0, None))
    ]
    (row,) = lab.RateRibbon.from_records(rows).ribbons
    assert row.accuracies[0] == pytest.approx(0.6) and math.isnan(row.accuracies[1])
    assert row.window == (0.1, 0.1)


def test_where_no_rate_trains_it_says_so():
    figure = ribbon([0.1, 0.1, 0.1])
    assert figure.ribbons[0].window is None and figure.ribbons[0].best is None
    assert "none trains" in texts(figure.plot(axes()))


# --------------------------------------------------------------------------------------------------- phase diagram


def at_bias(points, variance):
    """σ_w² where a curve has this σ_b²."""
    return float(np.interp(math.sqrt(variance), points[:, 1], points[:, 0])) ** 2


@pytest.mark.parametrize(
    ("variance_b", "variance_w"),
    [
        (2.01e-5, 1.05000),
        (0.0025, 1.26009),
        (0.01, 1.42421),
        (0.05, 1.76095),
        (0.1, 1.98607),
        (0.25, 2.40149),
        (1, 3.44321),
    ],
)
def test_the_edge_of_chaos_of_tanh_goes_through_the_published_points(variance_b, variance_w):
    """Schoenholz et al. 2017 (0.05), Xiao et al. 2018 (2.01e-5); the others integrated independently."""
    edge = lab.PhaseDiagram.from_activation("tanh").curves["edge of chaos"]
    assert at_bias(edge, variance_b) == pytest.approx(variance_w, rel=2e-4)


def test_the_edge_of_chaos_of_relu_is_the_single_point_root_two_and_zero():
    edge = lab.PhaseDiagram.from_activation("relu").curves["edge of chaos"]
    np.testing.assert_allclose(edge[:, :2], np.tile([math.sqrt(2), 0.0], (len(edge), 1)), atol=1e-6)


@pytest.mark.parametrize("sigma_w", [1.3, 5 / 3, 2.0])
def test_the_contours_of_six_depth_scales_are_where_the_table_has_them(sigma_w):
    """Science §3.3: at σ_b = 0 and σ_w = 1.3, 5/3, 2 six depth scales are 96, 31.5 and 19 layers."""
    depth = {1.3: 96, 5 / 3: 31.5, 2.0: 19}[sigma_w]
    curve = lab.PhaseDiagram.from_activation("tanh", depths=[depth]).curves[f"6ξ = {depth}, chaos"]
    assert curve[0, 1] == pytest.approx(0, abs=1e-6)
    assert curve[0, 0] == pytest.approx(sigma_w, rel=0.01)  # the table has two or three digits


def test_every_point_of_a_curve_is_a_fixed_point_with_its_chi():
    figure = lab.PhaseDiagram.from_activation("tanh", depths=[30])
    for name, expected in (
        ("edge of chaos", 1.0),
        ("6ξ = 30, order", math.exp(-0.2)),
        ("6ξ = 30, chaos", math.exp(0.2)),
    ):
        for w, b, q in figure.curves[name][40::97]:
            assert meanfield.variance_map("tanh", q, w, b) == pytest.approx(q, rel=1e-6)
            assert meanfield.chi("tanh", q, w) == pytest.approx(expected, rel=1e-6)


def test_the_users_network_and_the_named_schemes_are_marked():
    prediction = SimpleNamespace(activation="tanh", sigma_w=1.2, sigma_b=0.1, depth=12)
    figure = lab.PhaseDiagram.from_prediction(prediction)
    ax = figure.plot(axes())
    (star,) = [line for line in ax.lines if line.get_marker() == "*"]
    assert [float(v[0]) for v in star.get_data()] == [1.2, 0.1]
    assert "6ξ = 12, order" in figure.curves
    assert any("12 layers" in text for text in texts(ax)) and "He" in texts(ax)
    with pytest.raises(ValueError, match="do not share sigma_w"):
        lab.PhaseDiagram.from_prediction(SimpleNamespace(activation="tanh", sigma_w=None, sigma_b=0.0, depth=2))


# ---------------------------------------------------------------------------------------------------------- cobweb


def test_the_correlation_of_two_inputs_of_relu_walks_as_published():
    """Science §3.6: from orthogonal inputs, layers 1, 2, 5, 10, 20: .3183 .4937 .7359 .8715 .9484."""
    steps = lab.Cobweb.correlation("relu", math.sqrt(2), depth=21).steps
    found = [steps[i] for i in (1, 2, 5, 10, 20)]
    assert found == pytest.approx([0.3183, 0.4937, 0.7359, 0.8715, 0.9484], abs=5e-5)


def test_the_variance_of_tanh_with_gain_5_3_walks_to_its_fixed_point():
    steps = lab.Cobweb.variance("tanh", 5 / 3, start=0.05, depth=40).steps
    assert steps[-1] == pytest.approx(1.17848, abs=5e-6)


def test_the_web_goes_up_to_the_curve_and_across_to_the_diagonal():
    figure = lab.Cobweb.variance("relu", 1.0, start=1.0, depth=4)
    assert figure.steps == pytest.approx([1.0, 0.5, 0.25, 0.125])
    ax = figure.plot(axes())
    web = next(line for line in ax.lines if line.get_label() == "layer by layer")
    corners = list(zip(*web.get_data(), strict=True))
    assert corners[1:5] == [(1.0, 0.5), (0.5, 0.5), (0.5, 0.25), (0.25, 0.25)]


def test_the_slope_of_the_correlation_map_is_chi():
    assert "χ₁ = 1.21, chaos" in lab.Cobweb.correlation("tanh", 5 / 3, start=0.5, depth=3, q=1.17848).says


# -------------------------------------------------------------------------------------------------------- spectrum


def test_the_exponents_of_lyapunov_are_those_of_the_table():
    """Science §3.10, n = 256: top -0.0020, median -0.3485, bottom -3.408."""
    found = [lyapunov(256, i) for i in (1, 128.5, 256)]
    assert found == pytest.approx([-0.0020, -0.3485, -3.408], abs=5e-4)
    assert math.exp(20 * found[1]) == pytest.approx(9.4e-4, rel=0.02)


def test_a_product_of_gaussian_matrices_follows_the_exponents():
    rng, n = np.random.default_rng(0), 60
    product, rows = np.eye(n), []
    for _ in range(12):
        product = rng.normal(0, 1 / math.sqrt(n), (n, n)) @ product
        rows.append(np.linalg.svd(product, compute_uv=False).tolist())
    figure = lab.Spectrum.from_report(with_jacobian(rows), "gaussian")
    assert np.log(figure.summary()["median"][-1]) == pytest.approx(np.log(figure.theory["median"][-1]), abs=1.0)


def test_orthogonal_layers_have_the_power_of_their_gain():
    figure = lab.Spectrum.from_report(with_jacobian([[1.0] * 4] * 3), "orthogonal", sigma_w=1.1)
    for line in figure.theory.values():
        assert line == pytest.approx([1.1, 1.1**2, 1.1**3])


def test_where_half_of_the_values_are_zero_the_median_is_that_of_the_others():
    figure = lab.Spectrum.from_report(with_jacobian([[4.0, 2.0, 1.0, 0.0, 0.0, 1e-12], [4.0, 3.0, 2.0, 1.0, 0.0]]))
    found = figure.summary()
    assert found["largest"] == [4.0, 4.0] and found["median"] == [2.0, 2.0]
    assert all(math.isnan(v) for v in found["smallest"])
    assert any("rank 4 of 5" in text for text in texts(figure.plot(axes())))


def test_without_a_jacobian_the_call_that_makes_one_is_named():
    with pytest.raises(ValueError, match="jacobian=True"):
        lab.Spectrum.from_report(lab.Report([], 0.0))


# ------------------------------------------------------------------------------------------------------- ridgeline


def tanh_ridge(q):
    outputs = np.tanh(math.sqrt(q) * np.random.default_rng(0).standard_normal(200_000))
    saturated = float(np.mean(np.abs(outputs) >= 0.97))
    report = with_histograms(
        (record("linear1", weight_std=1.0, rms=math.sqrt(q)), outputs),
        (record("tanh1", "Tanh", rms=0.6, saturated=saturated), outputs),
    )
    prediction = predicted(report, second_moment=[q])
    return lab.Ridgeline.from_report(report, prediction).ridges


def test_the_density_is_that_of_a_gaussian_pushed_through_the_activation():
    """p(h) = N(artanh h; 0, q)/(1 - h²), in the middle of each bin."""
    q = 0.5
    (ridge,) = tanh_ridge(q)
    middle = (ridge.edges[1:] + ridge.edges[:-1]) / 2
    inside = np.abs(middle) < 0.9
    z, h = np.arctanh(middle[inside]), middle[inside]
    exact = np.exp(-(z**2) / (2 * q)) / math.sqrt(2 * math.pi * q) / (1 - h**2)
    np.testing.assert_allclose(ridge.predicted[inside], exact, rtol=0.01)
    np.testing.assert_allclose((ridge.predicted * np.diff(ridge.edges)).sum(), 1, atol=1e-4)


def test_saturation_of_tanh_with_gain_5_3_is_5_4_per_cent():
    """Science §3.3: q* = 1.17848 has P(|h| > 0.97) = 0.0539."""
    (ridge,) = tanh_ridge(1.17848)
    assert ridge.says == "5.4 % saturated (5.4)"
    assert ridge.ends[0] and ridge.ends[-1] and not ridge.ends[5:-5].any()


def test_half_of_what_relu_gives_is_zero_and_its_bin_is_marked():
    outputs = np.maximum(np.random.default_rng(0).standard_normal(100_000), 0)
    report = with_histograms(
        (record("linear1", weight_std=1.0, rms=1.0), outputs), (record("relu1", "ReLU", rms=0.7, dead=0.25), outputs)
    )
    (ridge,) = lab.Ridgeline.from_report(report, predicted(report, second_moment=[1.0])).ridges
    assert ridge.ends.tolist() == [True] + [False] * 39
    width = ridge.edges[1]
    expected = 0.5 + 0.5 * math.erf(width / math.sqrt(2))
    assert ridge.predicted[0] * width == pytest.approx(expected, abs=1e-3)
    assert ridge.density[0] * width == pytest.approx(expected, abs=0.01)
    assert "25 % of units dead" in ridge.says


def test_layers_of_very_different_size_are_drawn_in_units_of_their_rms():
    report = with_histograms((record("a", "Tanh", rms=1.0), NORMAL), (record("b", "Tanh", rms=1e-6), 1e-6 * NORMAL))
    assert lab.Ridgeline.from_report(report).plot(axes()).get_xlabel() == "output / rms of the layer"
    assert ridge("Tanh", "Tanh").plot(axes()).get_xlabel() == "output of the layer"


def test_layers_can_be_chosen_and_an_unknown_one_is_named():
    report = with_histograms(*((record(f"tanh{i}", "Tanh", rms=1.0), NORMAL) for i in range(30)))
    assert len(lab.Ridgeline.from_report(report).ridges) == 12
    assert [r.layer for r in lab.Ridgeline.from_report(report, layers=["tanh3"]).ridges] == ["tanh3"]
    with pytest.raises(ValueError, match="no histogram of conv1"):
        lab.Ridgeline.from_report(report, layers=["conv1"])
    with pytest.raises(ValueError, match="histograms=True"):
        lab.Ridgeline.from_report(lab.Report([], 0.0))


class Shared(nn.Module):
    """One ReLU behind two layers, and one layer that is used twice."""

    def __init__(self):
        self.first, self.second, self.relu = nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU()

    def forward(self, x):
        return self.second(self.second(self.relu(self.second(self.relu(self.first(x))))))


def probe_of_shared():
    model = Shared()
    init.apply(model, "he_normal", seed=0)
    model.second.weight.data *= 0.1  # the two histograms differ
    x = np.random.default_rng(1).standard_normal((32, 8), dtype=np.float32)
    y = np.arange(32) % 8
    return model, x, lab.probe(model, x, y, histograms=True, jacobian=True)


def test_a_layer_that_runs_twice_has_two_ridges_each_with_its_own_outputs():
    model, x, report = probe_of_shared()
    ridges = lab.Ridgeline.from_report(report, lab.predict(model, x)).ridges
    assert [r.layer for r in ridges] == ["relu", "relu"]
    first = np.maximum(model.first(x).numpy(), 0)
    second = np.maximum(model.second(first).numpy(), 0)
    for r, h in zip(ridges, (first, second), strict=True):
        assert (r.edges[0], r.edges[-1]) == pytest.approx((0, h.max()), rel=0.3)
        assert r.rms == pytest.approx(np.sqrt(np.mean(h**2)), rel=1e-5)
        np.testing.assert_allclose(r.density, np.histogram(h, r.edges)[0] / h.size / np.diff(r.edges), atol=0.05)
        assert (np.diff(r.edges) > 0).all() and len(r.density) == len(r.predicted) == 60
    assert [r.layer for r in lab.Ridgeline.from_report(report, layers=["second"]).ridges] == ["second"] * 3


def test_a_prediction_of_another_model_is_refused_by_the_ridgeline():
    _, _, report = probe_of_shared()
    x = np.zeros((4, 12), np.float32)
    with pytest.raises(ValueError, match="take both of the same model"):
        lab.Ridgeline.from_report(report, lab.predict(small_model(), x))


def test_a_scale_without_a_logarithm_is_refused_by_the_spectrum():
    with pytest.raises(ValueError, match="sigma_w is .* above 0; got 0.0"):
        lab.Spectrum.from_report(with_jacobian([[1.0]]), "gaussian", sigma_w=0.0)


def test_a_weight_that_is_used_twice_has_two_columns_of_singular_values():
    model, _, report = probe_of_shared()
    figure = lab.Spectrum.from_report(report)
    assert figure.layers == ["first", "second", "second", "second"]
    jacobian = model.first.weight.numpy()
    np.testing.assert_allclose(figure.values[0], np.linalg.svd(jacobian, compute_uv=False), rtol=1e-5)
    assert [len(v) for v in figure.values] == [8] * 4


def test_the_heat_map_shows_a_layer_that_runs_twice_by_its_first_output():
    twice = bins_of("relu", NORMAL, step=0) + bins_of("relu", 100 + NORMAL, step=0)
    states = [record("relu", "ReLU", dead=d) | {"step": 0} for d in (0.9, 0.0)]
    (strip,) = lab.TrainingHeatmap.from_records(twice, states).strips
    assert (strip.edges[0], strip.edges[-1]) == pytest.approx((NORMAL.min(), NORMAL.max()))
    assert strip.shares.sum() == pytest.approx(1) and strip.dead == [True]


# ------------------------------------------------------------------------------------------------- training heat map


def test_looks_of_different_range_keep_their_mass_in_common_bins():
    figure = heat(steps=(0, 10), names=("tanh1",))
    (strip,) = figure.strips
    np.testing.assert_allclose(strip.shares.sum(axis=1), 1, rtol=1e-9)
    assert strip.edges[0] == pytest.approx(NORMAL.min() * 11) and strip.edges[-1] == pytest.approx(NORMAL.max() * 11)


def test_the_white_lines_are_the_quantiles_of_the_outputs():
    outputs = np.random.default_rng(0).uniform(-2, 6, 100_000)
    (strip,) = lab.TrainingHeatmap.from_records(bins_of("a", outputs, bins=80, step=0)).strips
    assert strip.quantiles()[0] == pytest.approx([-1.6, 2.0, 5.6], abs=0.05)


def test_dead_layers_and_lost_ones_are_marked_at_their_step():
    looks = bins_of("relu1", NORMAL, step=0) + bins_of("relu1", NORMAL, step=5)
    states = [
        record("relu1", "ReLU", dead=0.7, nonfinite=0.0) | {"step": 0},
        record("relu1", "ReLU", dead=0.1, nonfinite=0.0) | {"step": 5},
        record("relu1", "ReLU", dead=0.0, nonfinite=1.0) | {"step": 9},
    ]
    figure = lab.TrainingHeatmap.from_records(looks, states)
    (strip,) = figure.strips
    assert list(figure.steps) == [0, 5, 9] and strip.dead == [True, False, False] and strip.lost == [False, False, True]
    ax = figure.plot(axes())
    marks = {line.get_marker(): list(line.get_xdata()) for line in ax.lines if line.get_marker() in ("x", "v")}
    assert marks == {"x": [9], "v": [0]}


def test_theory_is_marked_at_the_left_edge_in_the_units_of_the_layer():
    prediction = SimpleNamespace(records=[record("a", mean=1.0, std=2.0)])
    (strip,) = lab.TrainingHeatmap.from_records(bins_of("a", 10 * NORMAL, step=0), prediction=prediction).strips
    assert strip.theory == pytest.approx([1 - 3.2898, 1.0, 1 + 3.2898], abs=1e-4)


# --------------------------------------------------------------------------------------------------------- the gallery


def test_the_gallery_shows_every_figure_and_is_the_page_that_its_script_writes():
    folder = ROOT / "docs" / "gallery"
    spec = importlib.util.spec_from_file_location("gallery", folder / "make.py")
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert page == gallery.page(), "python docs/gallery/make.py"
    assert all(f"lab.{name}" in page for name in USUAL)
    for name in gallery.GALLERY:
        assert f"({name}.png)" in page and 0 < (folder / f"{name}.png").stat().st_size < 120_000
    for code in page.split("```python\n")[1:]:
        compile(code.split("```")[0], "gallery", "exec")
