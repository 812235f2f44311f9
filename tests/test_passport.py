"""Passports: the law that a formula means, the ladders beside theory, the page, the figure."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest

from minidl import init
from minidl.lab import passport
from minidl.lab.law import Law, marchenko_pastur, read_law
from minidl.lab.passport import scheme_passport

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "initializers"
SHAPE, FANS = (300, 200), (200, 300)


def law_of(name: str, **params) -> Law | None:
    initializer = init.get(name, **params)
    return read_law(initializer.law, passport._words(initializer, FANS), SHAPE)


@pytest.mark.parametrize("name", init.names())
def test_the_law_in_the_formula_is_the_law_of_the_weights(name):
    """Mean and variance of 60 000 draws: within 5 standard errors. Plant a bug in a formula and this test fails."""
    law = law_of(name)
    if law is None or not law.independent:
        pytest.skip("the formula is not that of independent weights")
    fan_in, fan_out = FANS
    w = init.get(name)(SHAPE, fan_in=fan_in, fan_out=fan_out, rng=np.random.default_rng(1), dtype=np.float64)
    assert abs(w.mean() - law.mean) <= 5 * law.std / math.sqrt(w.size) + 1e-12
    assert w.std() == pytest.approx(law.std, rel=5 / math.sqrt(w.size), abs=1e-12)


@pytest.mark.parametrize(
    ("text", "mean", "std"),
    [
        ("W ~ N(0, 2/((1+a²) fan_in))", 0, math.sqrt(2 / (1.25 * 200))),
        ("W ~ U(±gain √(6/(fan_in + fan_out)))", 0, 3 * math.sqrt(2 / 500)),
        ("W ~ U[low, high]", 0.1, 0.2 / math.sqrt(12)),
        ("W ~ N(0, √(2/fan_out))", 0, (2 / 300) ** 0.25),
        ("W ~ N(0, 2/fan_in) cut at ±2σ', variance restored", 0, 0.1),
        ("W ~ N(0, 2/fan_in) cut at ±2σ', variance not restored", 0, 0.1 * 0.87962566103423978),
        ("W ~ |N(0, 2/fan_in)| cut at 2σ'", 0.072279, 0.050131),  # published moments of the half normal cut at 2
        ("W ~ -|N(0, 2/fan_in)| cut at 2σ'", -0.072279, 0.050131),
        ("W = value", 0.25, 0),
    ],
)
def test_a_formula_is_read_with_its_brackets_roots_and_products(text, mean, std):
    words = {"fan_in": 200, "fan_out": 300, "a": 0.5, "gain": 3.0, "low": 0.0, "high": 0.2, "value": 0.25}
    law = read_law(text, words, SHAPE)
    assert law.mean == pytest.approx(mean, abs=1e-6)
    assert law.std == pytest.approx(std, abs=1e-6)


@pytest.mark.parametrize(
    "text", ["W = gain I", "W ~ N(0, unknown/fan_in)", "W ~ N(0, 2¼)", "W has k entries N(0, std²)"]
)
def test_a_formula_that_is_no_law_of_one_weight_has_none(text):
    assert read_law(text, {"fan_in": 200, "gain": 1.0}, SHAPE) is None


def test_a_formula_that_says_more_than_the_law_of_one_weight_is_not_of_independent_weights():
    said = {"fan_in": 200}
    assert read_law("W ~ N(0, 2/fan_in)", said, SHAPE).independent
    assert not read_law("W ~ N(0, 2/fan_in), correlation ρ between rows", said, SHAPE).independent


@pytest.mark.parametrize(
    "law",
    [
        Law("normal", 0.3, 0.2),
        Law("normal", 0.0, 0.2, cut=2.0),
        Law("normal", 0.0, 0.2, cut=2.0, side=-1),
        Law("uniform", 0.1, 0.4),
        Law("sphere", 0.0, 0.9, dimension=30),
    ],
    ids=lambda law: f"{law.kind} {law.cut} {law.side}",
)
def test_a_density_has_area_1_and_the_moments_of_its_law(law):
    x = np.linspace(-2, 2, 400_001)
    density = law.density(x)
    step = x[1] - x[0]
    assert density.sum() * step == pytest.approx(1, abs=1e-4)
    mean = (x * density).sum() * step
    assert mean == pytest.approx(law.mean, abs=1e-4)
    assert ((x - mean) ** 2 * density).sum() * step == pytest.approx(law.std**2, rel=1e-3)


@pytest.mark.parametrize(("rows", "columns"), [(200, 200), (400, 100), (100, 400)])
def test_singular_values_of_independent_weights_follow_marchenko_and_pastur(rows, columns):
    s = np.linalg.svd(np.random.default_rng(0).normal(0, 0.3, (rows, columns)), compute_uv=False)
    x = np.linspace(1e-6, 1.2 * s.max(), 20_001)
    share = np.cumsum(marchenko_pastur(x, rows, columns, 0.3)) * (x[1] - x[0])
    assert share[-1] == pytest.approx(1, abs=1e-3)
    for quantile in (0.25, 0.5, 0.75):
        assert np.interp(np.quantile(s, quantile), x, share) == pytest.approx(quantile, abs=0.03)


@pytest.fixture(scope="module")
def he():
    return scheme_passport("he_normal")


def test_ladders_of_he_and_glorot_have_the_factors_of_theory(he):
    """ReLU keeps the second moment with He and halves it with Glorot; ln M has a standard error of 0.14 √20 / 20."""
    by_network = {r["network"]: r for r in he.records}
    assert by_network["ReLU"]["rms"] == pytest.approx(1, abs=0.05)
    assert by_network["ReLU"]["rms_theory"] == pytest.approx(1, abs=1e-6)
    assert by_network["linear"]["rms_theory"] == pytest.approx(math.sqrt(2), rel=1e-6)
    glorot = {r["network"]: r for r in scheme_passport("glorot_normal").records}
    assert glorot["ReLU"]["rms_theory"] == pytest.approx(math.sqrt(0.5), rel=1e-6)
    assert glorot["ReLU"]["rms"] == pytest.approx(math.sqrt(0.5), abs=0.04)


def test_gradients_beside_theory(he):
    for record in he.records:
        assert record["gradient"] == pytest.approx(record["gradient_theory"], rel=0.06), record["network"]


def test_theory_of_a_gradient_that_explodes_reaches_down_to_the_first_layer():
    """``n Var(w) E φ'²`` is 256 without an activation, 128 with ReLU: √ of it to the power of 19, in 20 layers."""
    found = scheme_passport(init.normal(std=1.0))
    for network, factor in (("linear", 16.0), ("ReLU", math.sqrt(128))):
        measured, theory = found.ladders[network].ladder("delta_rms"), found.theory[network]["delta_rms"]
        assert len(theory) == len(measured) == 20 and theory[-1] == measured[-1]
        assert theory[0] == pytest.approx(measured[-1] * factor**19, rel=1e-6)
        assert measured[0] == pytest.approx(theory[0], rel=0.5)


def test_no_theory_is_claimed_where_weights_are_not_centred_or_not_independent():
    for name in ("ones", "constant", "as_written_kaiming"):
        assert not scheme_passport(name).theory


def test_a_scheme_with_an_activation_gets_that_of_each_network():
    """The article's Xavier has two laws: with ReLU that of He, with tanh Glorot's own."""
    factors = {r["network"]: r["rms_theory"] for r in scheme_passport("as_written_xavier").records}
    assert factors["ReLU"] == pytest.approx(1, abs=1e-6)
    assert factors["tanh"] == pytest.approx(
        {r["network"]: r["rms_theory"] for r in scheme_passport("glorot_normal").records}["tanh"]
    )


def test_zeros_let_nothing_through_and_orthogonal_everything_in_a_linear_network():
    assert {r["verdict"] for r in scheme_passport("zeros").records} == {"no signal and no gradient"}
    found = scheme_passport("orthogonal")
    assert found.records[0]["verdict"] == "gets through"
    np.testing.assert_allclose(found.singular, 1, atol=1e-5)


def test_the_layer_has_the_fans_that_were_asked_for():
    found = scheme_passport("he_normal", fan_in=50, fan_out=80)
    assert found.settings["shape"] == (80, 50)
    assert found.weights["law_std"] == pytest.approx(0.2)
    assert found.weights["std"] == pytest.approx(0.2, rel=0.03)


@pytest.mark.parametrize("fans", [(0, 5), (5, -1), (10_000, 10_000)])
def test_a_layer_of_no_weights_or_too_many_is_refused_with_the_numbers(fans):
    with pytest.raises(ValueError, match=str(fans[0])):
        scheme_passport("he_normal", fan_in=fans[0], fan_out=fans[1])


def test_a_page_has_formula_parameters_source_and_no_signs_of_another_markup(he):
    page = he.page("he_normal.png")
    assert "# he_normal\n" in page and "![he_normal" in page
    assert "W ~ N(0, 2/((1+a²) fan_in))" in page
    assert "- `negative_slope`:" in page
    assert "He et al. 2015" in page.partition("## Source")[2]
    assert "``" not in page and "Args:" not in page and "Raises:" not in page


def test_a_docstring_that_points_to_another_scheme_has_its_source():
    assert "He et al. 2015" in scheme_passport("he_uniform").page().partition("## Source")[2]


def test_the_figure_has_density_spectrum_facts_and_three_ladders(he):
    axes = he.figure().axes
    assert len(axes) == 6
    assert [line.get_label() for line in axes[0].lines] == ["exact law"]
    assert axes[3].get_yscale() == "log"
    assert {"linear", "ReLU", "tanh", "sigmoid"} <= {line.get_label() for line in axes[3].lines}


def test_an_initializer_of_no_scheme_has_no_passport():
    with pytest.raises(TypeError, match="@register"):
        scheme_passport(lambda shape, *, fan_in, fan_out, rng, dtype=np.float32: np.zeros(shape, dtype))


# ------------------------------------------------------------------------------------------------------------ the docs


@pytest.mark.skipif(not PAGES.is_dir(), reason="the docs are not part of an installation")
@pytest.mark.parametrize("name", init.names())
def test_every_scheme_has_its_page_with_its_formula(name):
    """After adding a scheme or changing its formula or docstring: python docs/initializers/make.py NAME."""
    assert (PAGES / f"{name}.md").is_file(), f"its passport is missing: python docs/initializers/make.py {name}"
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert f"`{init.get(name)!r}`" in page
    assert (PAGES / f"{name}.png").stat().st_size > 0
    first = " ".join(inspect.getdoc(init.registry.entry(name).factory).split("\n\n")[0].replace("``", "`").split())
    assert first in " ".join(page.split())
    assert f"[{name}]({name}.md)" in (PAGES / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not PAGES.is_dir(), reason="the docs are not part of an installation")
def test_the_pages_are_small_and_of_registered_schemes():
    files = [*PAGES.glob("*.md"), *PAGES.glob("*.png")]
    assert {file.stem for file in files} <= {*init.names(), "README"}
    assert sum(file.stat().st_size for file in files) < 6e6
