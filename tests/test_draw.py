"""Figures: what is drawn is what was measured; lines are told apart without colour; nothing global is touched."""

import itertools
import math
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from minidl import lab, models
from minidl.experiment import variance

pytestmark = pytest.mark.host("figures are drawn on the host")

matplotlib.use("Agg")
SETTINGS = dict(matplotlib.rcParams)  # before anything is drawn
EIGHT = {f"scheme {i}": [10.0**i, 2 * 10.0**i, 3 * 10.0**i] for i in range(-4, 4)}


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def report():
    return variance("tanh", depth=5, width=20)


def axes():
    return Figure().subplots()


def labelled(ax):
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def crosses(ax):
    return [(x, y) for line in ax.lines if line.get_marker() == "x" for x, y in zip(*line.get_data(), strict=True)]


def draw(*ladder, **options):
    ax = axes()
    lab.plot_ladders({"one": ladder}, ax=ax, **options)
    return ax


# ------------------------------------------------------------------------------------------- what is drawn


def test_each_ladder_is_a_line_through_its_values_at_layers_1_2_3():
    ax = axes()
    lab.plot_ladders(EIGHT, ax=ax)
    lines = labelled(ax)
    assert list(lines) == list(EIGHT)
    for label, values in EIGHT.items():
        assert lines[label].get_xdata().tolist() == [1, 2, 3]
        assert lines[label].get_ydata().tolist() == values
    assert ax.get_yscale() == "log" and not crosses(ax)


def test_a_report_is_drawn_as_the_signal_ladder_of_its_hidden_layers_with_theory(report):
    ax = report.plot(axes())
    drawn = [line.get_ydata().tolist() for line in ax.lines]
    for key in ("rms", "batch_std", "delta_rms"):
        assert report.ladder(key) in drawn
    assert [r["rms"] for r in report.prediction.records if r["layer"].startswith("linear")] in drawn
    assert ax.get_title() == report.title and ax.get_xlabel() == "hidden layer"


def test_all_values_lie_inside_the_axes():
    ax = axes()
    lab.plot_ladders(EIGHT, ax=ax)
    low, high = ax.get_ylim()
    values = [v for ladder in EIGHT.values() for v in ladder]
    assert low < min(values) and max(values) < high


def test_the_limits_may_be_common_to_several_panels():
    panels = [draw(1.0, 2.0, limits=[1e-3, 1e3]), draw(50.0, 60.0, limits=[1e-3, 1e3])]
    assert panels[0].get_ylim() == panels[1].get_ylim()


@pytest.mark.parametrize(
    ("ladder", "cross"),
    [
        ([1, 1e-5, 1e-10, 1e-15, 1e-20], (4, 1e-12)),
        ([1, 0.1, 0, 0], (3, 0.1)),
        ([1, 1e6, 1e12, 1e18], (3, 1e8)),
        ([1, 10, math.inf, math.inf], (3, 10)),
        ([1, 10, math.nan], (3, 10)),
        ([1e-20, 1e-10, 1], (1, 1e-12)),  # a gradient, from the last layer down
        ([math.inf, math.inf, 10, 1], (2, 10)),
        ([0, 0, 0], (1, 1)),
        ([math.nan, math.nan], (1, 10)),
    ],
)
def test_a_cross_at_the_edge_says_where_a_line_is_lost(ladder, cross):
    ((layer, edge),) = crosses(draw(*ladder))
    assert (layer, edge) == (cross[0], pytest.approx(cross[1]))


@pytest.mark.parametrize("ladder", [[0, 0], [math.nan], [], [5.0], [1e-300, 1e300]])
def test_extreme_ladders_can_be_saved(ladder, tmp_path):
    ax = draw(*ladder)
    ax.figure.savefig(tmp_path / "a.png")
    low, high = ax.get_ylim()
    assert 0 < low < high < math.inf


# --------------------------------------------------------------------------- told apart, readable, nothing global


def test_any_two_of_eight_lines_differ_in_colour_and_in_dash_or_marker():
    ax = axes()
    lab.plot_ladders(EIGHT, ax=ax)
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in labelled(ax).values()]
    assert len({colour for colour, _, _ in looks}) == 8
    assert len({marker for _, _, marker in looks}) == 8
    for one, two in itertools.pairwise(looks):
        assert one[1] != two[1] and one[2] != two[2]  # neighbours differ in both


def luminance(colour):
    """Relative luminance, WCAG 2.1."""
    channels = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_every_line_stands_out_from_the_white_ground():
    """Contrast of at least 2 : 1 (dash, marker and a width of 1.5 points help)."""
    ax = axes()
    lab.plot_ladders(EIGHT, ax=ax)
    for label, line in labelled(ax).items():
        assert 1.05 / (luminance(line.get_color()) + 0.05) >= 2, label


@pytest.mark.parametrize("values", [3, 20, 100])
def test_a_line_carries_enough_markers_to_be_recognized(values):
    (line,) = labelled(draw(*np.linspace(1, 2, values))).values()
    shown = len(range(0, values, line.get_markevery()))
    assert 3 <= shown <= 15


def pixels(fig, path):
    fig.savefig(path)
    return plt.imread(path)


def test_the_background_is_opaque_and_white_wherever_it_is_shown(report, tmp_path):
    image = pixels(report.figure(), tmp_path / "a.png")
    assert (image[..., 3] == 1).all() and image[0, 0].tolist() == [1, 1, 1, 1]
    image = pixels(report.plot().figure, tmp_path / "b.png")
    assert (image[..., 3] == 1).all() and image[0, 0].tolist() == [1, 1, 1, 1]


def test_no_global_setting_is_touched(report):
    report.figure()
    report.plot()
    lab.plot_ladders(EIGHT)
    assert dict(matplotlib.rcParams) == SETTINGS


def test_with_axes_given_pyplot_is_left_alone(report):
    before = plt.get_fignums()
    ax = axes()
    assert report.plot(ax) is ax and lab.plot_ladders(EIGHT, ax=ax) is ax
    report.figure()
    assert plt.get_fignums() == before


def test_without_axes_a_new_figure_of_pyplot_is_made(report):
    ax = report.plot()
    assert ax.figure.number in plt.get_fignums()


def test_saving_a_figure_twice_gives_the_same_bytes(report, tmp_path):
    for name in ("a.png", "b.png"):
        report.figure().savefig(tmp_path / name)
    assert Path(tmp_path / "a.png").read_bytes() == Path(tmp_path / "b.png").read_bytes()


def test_a_network_with_one_hidden_layer_can_be_drawn():
    x, y = np.ones((4, 3), np.float32), np.zeros(4, int)
    assert lab.probe(models.mlp([3, 4, 2]), x, y).figure()
    assert lab.probe(models.mlp([3, 2]), x, y).figure()


# ------------------------------------------------------------------------------------------- theory beside measurement


def test_the_theory_lies_as_a_wide_band_under_its_own_ladder():
    ax = axes()
    lab.plot_ladders({"a": [1.0, 0.1, 0.01], "b": [1.0, 2.0, 4.0]}, ax=ax, theory={"b": [1.0, 2.1, 4.4]})
    (band,) = (line for line in ax.lines if line.get_linewidth() > 5)
    assert list(band.get_ydata()) == [1.0, 2.1, 4.4]
    assert band.get_color() == labelled(ax)["b"].get_color()
    assert band.get_zorder() < labelled(ax)["b"].get_zorder()
    assert list(labelled(ax)) == ["a", "b"]


def test_the_theory_ends_where_the_figure_ends():
    ax = draw(1.0, 1.0, 1.0, limits=(1e-3, 1e3), theory={"one": [1.0, 1e5, 1e-9]})
    band = max(ax.lines, key=lambda line: line.get_linewidth())
    np.testing.assert_array_equal(band.get_ydata(), [1.0, math.nan, math.nan])


def test_text_is_black_on_white_also_in_a_dark_style(report):
    with plt.style.context("dark_background"):
        ax = report.plot()
    texts = [ax.title, ax.xaxis.label, *ax.get_xticklabels(), *ax.get_yticklabels()]
    assert {to_hex(text.get_color()) for text in texts} == {"#000000"}
    assert to_hex(ax.figure.get_facecolor()) == to_hex(ax.get_facecolor()) == "#ffffff"


@pytest.mark.parametrize("depth", [2, 5, 20, 50])
def test_layers_are_ticked_at_whole_numbers(depth):
    ax = lab.plot_ladders({"a": [1.0] * depth})
    ticks = ax.get_xticks()
    assert np.array_equal(ticks, np.round(ticks))
    plt.close(ax.figure)
