"""Every scheme against theory: its moments, its distribution, its bounds, on shapes where a mistake shows.

Statistical gates, with fixed seeds. Moments: 5 standard errors (one false alarm in 1.7 million). Kolmogorov-Smirnov:
D √N < 2.55, false-alarm rate 2 exp(-2 · 2.55²) = 4.5e-6. About 3000 such checks are made here: together below 2 %.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from conftest import fetch, tensor

from minidl import init, threads
from minidl.init.sample import BLOCK, truncated_std
from minidl.lab import passport
from minidl.lab.law import read_law

GATE = 5.0
KS_GATE = 2.55
CUT_STD = 0.87962566103423978  # of N(0, 1) cut at ±2


@dataclass(frozen=True)
class Layer:
    """A weight's shape and its fans, as counted in test_init_gain. No fan equals another number of the shape."""

    shape: tuple[int, ...]
    fan_in: float
    fan_out: float
    receptive_field: int
    groups: int = 1


LAYERS = {
    "dense": Layer((251, 97), 97, 251, 1),
    "conv 3x5": Layer((64, 31, 3, 5), 31 * 15, 64 * 15, 15),
    "grouped conv, 3 groups": Layer((96, 16, 3, 3), 16 * 9, 32 * 9, 9, groups=3),
    "depthwise conv, 3 for each": Layer((600, 1, 5, 5), 25, 3 * 25, 25, groups=200),
    "transposed conv, stride 2": Layer((40, 24, 5, 5), 40 * 25 / 4, 24 * 25, 25),
    "transposed conv, stride 2 into 3": Layer((31, 17, 3, 7), 31 * 21 / 4, 17 * 21, 21),  # fan_in 162.75
    "a single unit": Layer((1, 20011), 20011, 1, 1),
}
DTYPES = [np.float16, np.float32, np.float64]
# Layers with more than one sum, and with two fans that differ by much; in one order, for every process must collect the
# same tests
SEES_ALL = [name for name in LAYERS if name != "a single unit"]


@dataclass(frozen=True)
class Law:
    """What theory says of the entries: a normal, uniform or cut normal law with this mean and standard deviation."""

    kind: str
    std: float
    mean: float = 0.0

    @property
    def limit(self):
        """The farthest an entry may be from the mean."""
        return {"normal": math.inf, "uniform": math.sqrt(3) * self.std, "cut": 2 * self.std / CUT_STD}[self.kind]

    @property
    def kurtosis(self):
        return {"normal": 0.0, "uniform": -1.2, "cut": -0.634}[self.kind]

    def cdf(self, x):
        z = (x - self.mean) / self.std
        if self.kind == "uniform":
            return np.clip((z / math.sqrt(3) + 1) / 2, 0, 1)
        if self.kind == "normal":
            return phi(z)
        return np.clip((phi(z * CUT_STD) - phi(-2.0)) / (phi(2.0) - phi(-2.0)), 0, 1)


def phi(z):
    """The normal distribution function."""
    return 0.5 * np.vectorize(math.erfc, otypes=[float])(-np.asarray(z) / math.sqrt(2))


def keeps(kept, fan):
    """The standard deviation for which ``fan · Var(w) · kept = 1``: the second moment survives the layer."""
    return math.sqrt(1 / (fan * kept))


RELU = 1 / 2  # E relu(ξ)²: what is kept of the second moment
LEAKY = (1 + 0.25**2) / 2

KINDS = {"normal": "normal", "uniform": "uniform", "truncated_normal": "cut"}  # the endings of the schemes' names
MEANS = {  # of the two fans, by mode
    "fan_in": lambda n, m: n,
    "fan_out": lambda n, m: m,
    "fan_avg": lambda n, m: (n + m) / 2,
    "fan_geometric": lambda n, m: math.sqrt(n * m),
}


def modes(kept):
    """Rows for every mode: the family that keeps its signal where ``kept`` of the second moment gets through."""
    return lambda kind: [
        ({"mode": mode}, lambda n, m, fan=fan: Law(kind, keeps(kept, fan(n, m)))) for mode, fan in MEANS.items()
    ]


def uncorrected(kept, fan):
    """The row of the other truncation: cut at ±2 and left so."""
    return [({"correct_truncation": False}, lambda n, m: Law("cut", keeps(kept, fan(n, m)) * CUT_STD))]


# For every scheme: parameters, and the law of the entries for a layer with these fans.
THEORY = {
    "normal": [({}, lambda n, m: Law("normal", 0.01)), ({"mean": 3, "std": 2.0}, lambda n, m: Law("normal", 2, 3))],
    "uniform": [
        ({}, lambda n, m: Law("uniform", 0.1 / math.sqrt(12))),
        ({"low": -1, "high": 5}, lambda n, m: Law("uniform", math.sqrt(3), 2)),
    ],
    "truncated_normal": [
        ({"std": 0.3}, lambda n, m: Law("cut", 0.3)),
        ({"mean": -1, "std": 0.3, "correct": False}, lambda n, m: Law("cut", 0.3 * CUT_STD, -1)),
    ],
    **{f"lecun_{name}": modes(1)(kind) for name, kind in KINDS.items()},
    **{
        f"glorot_{name}": [
            ({}, lambda n, m, kind=kind: Law(kind, keeps(1, (n + m) / 2))),
            ({"gain": 5 / 3}, lambda n, m, kind=kind: Law(kind, 5 / 3 * keeps(1, (n + m) / 2))),
            *modes(1)(kind),
        ]
        for name, kind in KINDS.items()
    },
    **{
        f"he_{name}": [
            ({}, lambda n, m, kind=kind: Law(kind, keeps(RELU, n))),
            ({"negative_slope": 0.25}, lambda n, m, kind=kind: Law(kind, keeps(LEAKY, n))),
            *modes(RELU)(kind),
        ]
        for name, kind in KINDS.items()
    },
    "mup": [
        ({"role": "input"}, lambda n, m: Law("normal", keeps(1, n))),
        ({"scale": 2.0}, lambda n, m: Law("normal", keeps(RELU, n))),
        ({"role": "output", "base_width": 10}, lambda n, m: Law("normal", math.sqrt(10) * keeps(1, n * n))),
    ],
    "torch_default": [({}, lambda n, m: Law("uniform", keeps(3, n)))],
    "keras_default": [({}, lambda n, m: Law("uniform", keeps(1, (n + m) / 2)))],
    "jax_default": [({}, lambda n, m: Law("cut", keeps(1, n)))],
    "keras_2_0_9": [
        ({}, lambda n, m: Law("cut", keeps(RELU, n) * CUT_STD)),
        ({"name": "glorot_normal"}, lambda n, m: Law("cut", keeps(1, (n + m) / 2) * CUT_STD)),
        ({"name": "lecun_normal"}, lambda n, m: Law("cut", keeps(1, n) * CUT_STD)),
    ],
    "sigmoid_glorot": [({}, lambda n, m: Law("uniform", 4 * keeps(1, (n + m) / 2)))],
    "edge_of_chaos": [
        ({}, lambda n, m: Law("normal", keeps(1, n))),
        ({"sigma_b": math.sqrt(0.05)}, lambda n, m: Law("normal", math.sqrt(1.76095) * keeps(1, n))),
        ({"activation": "relu"}, lambda n, m: Law("normal", keeps(RELU, n))),
    ],
    "kumar": [
        ({}, lambda n, m: Law("normal", 3.5777 * keeps(1, n))),
        ({"activation": "tanh"}, lambda n, m: Law("normal", keeps(1, n))),
    ],
    "as_written_gaussian": [
        ({}, lambda n, m: Law("normal", keeps(RELU, m))),
        ({"neurons": "fan_in"}, lambda n, m: Law("normal", keeps(RELU, n))),
        ({"second_argument": "variance"}, lambda n, m: Law("normal", math.sqrt(keeps(RELU, m)))),
        ({"neurons": "fan_in", "second_argument": "variance"}, lambda n, m: Law("normal", math.sqrt(keeps(RELU, n)))),
    ],
    "as_written_he": [
        ({}, lambda n, m: Law("normal", keeps(RELU, n))),
        ({"second_argument": "variance"}, lambda n, m: Law("normal", math.sqrt(keeps(RELU, n)))),
    ],
    "as_written_xavier": [
        ({}, lambda n, m: Law("normal", keeps(RELU, n))),
        ({"activation": "tanh"}, lambda n, m: Law("normal", keeps(1, (n + m) / 2))),
        ({"activation": "sigmoid"}, lambda n, m: Law("normal", keeps(1, (n + m) / 2))),
    ],
    "as_written_xavier_global": [
        ({}, lambda n, m: Law("normal", 0.0501886)),
        ({"n": 3, "m": 5}, lambda n, m: Law("normal", 0.5)),
    ],
    "variance_scaling": [
        ({}, lambda n, m: Law("normal", keeps(1, n))),
        ({"scale": 4, "mode": "fan_out", "distribution": "uniform"}, lambda n, m: Law("uniform", keeps(1 / 4, m))),
        ({"mode": "fan_avg", "distribution": "truncated_normal"}, lambda n, m: Law("cut", keeps(1, (n + m) / 2))),
        ({"scale": 2, "mode": "fan_geometric"}, lambda n, m: Law("normal", keeps(RELU, math.sqrt(n * m)))),
        (
            {"scale": 2, "distribution": "truncated_normal", "correct_truncation": False},
            lambda n, m: Law("cut", keeps(RELU, n) * CUT_STD),  # 0.7737 of the second moment per ReLU layer
        ),
    ],
}
THEORY["lecun_truncated_normal"] += uncorrected(1, MEANS["fan_in"])
THEORY["glorot_truncated_normal"] += uncorrected(1, MEANS["fan_avg"])
THEORY["he_truncated_normal"] += uncorrected(RELU, MEANS["fan_in"])

CONSTANT = {"zeros": 0.0, "ones": 1.0, "constant": 0.1, "prior_bias": -math.log(99)}
DETERMINISTIC = {*CONSTANT, "identity", "identity_hadamard"}
# Entries are not independent: tested in test_init_orthogonal.py and test_init_families.py
STRUCTURED = {
    "orthogonal",
    "delta_orthogonal",
    "looks_linear",
    "identity",
    "identity_hadamard",
    "sparse",
    "correlated_normal",
    "shared_draw",
}
ONE_SIDED = {"as_written_kaiming"}  # no symmetric law: tested in test_as_written.py


def in_the_formula(name, n, m):
    """The law that a scheme's own formula states, None if it states none of independent entries, symmetric."""
    initializer = init.get(name)
    law = read_law(initializer.law, passport._words(initializer, (n, m)), (m, n))
    if law is None or not law.independent or law.side or law.kind not in ("normal", "uniform"):
        return None
    return Law(law.kind if math.isinf(law.cut) else "cut", law.std, law.mean)


# A scheme that is in none of these lists is held to the formula that it prints: adding one takes no line here.
LISTED = {*THEORY, *CONSTANT, *STRUCTURED, *ONE_SIDED}
THEORY |= {
    name: [({}, functools.partial(in_the_formula, name))]
    for name in init.names()
    if name not in LISTED and in_the_formula(name, 3, 5)
}

CASES = [
    pytest.param(name, params, law, layer, dtype, id=f"{name}{params or ''}-{label}-{np.dtype(dtype)}")
    for name, rows in THEORY.items()
    for i, (params, law) in enumerate(rows)
    for label, layer in LAYERS.items()
    for dtype in (DTYPES if i == 0 else DTYPES[1:2])  # other parameters in float32 alone
]


def draw(initializer, layer, dtype=np.float32, seed=0):
    """Weights as a model on the device under test gets them: drawn on the host, then copied."""
    rng = np.random.default_rng(seed)
    values = initializer(layer.shape, fan_in=layer.fan_in, fan_out=layer.fan_out, rng=rng, dtype=dtype)
    return fetch(tensor(values))


def check_law(values, law):
    """Fail unless ``values`` look like independent draws from ``law``: moments, bounds, distribution."""
    precision = np.finfo(values.dtype).eps
    x = values.astype(np.float64).ravel()
    z = (x - law.mean) / law.std
    assert abs(z.mean()) < GATE / math.sqrt(x.size) + precision, f"mean is {z.mean():.3g} standard deviations off"
    variance_error = math.sqrt((law.kurtosis + 2) / x.size)
    assert abs((z**2).mean() - 1) < GATE * variance_error, f"variance is {(z**2).mean():.4g} of what theory says"
    kurtosis = (z**4).mean() / (z**2).mean() ** 2 - 3
    assert abs(kurtosis - law.kurtosis) < GATE * math.sqrt(24 / x.size), f"excess kurtosis {kurtosis:.3g}"
    rounding = precision * (law.limit + abs(law.mean))
    assert not abs(x - law.mean).max() > law.limit + rounding, "an entry lies outside the bounds"
    distance = kolmogorov_smirnov(x, law.cdf)
    assert distance * math.sqrt(x.size) < KS_GATE, f"distribution: KS distance {distance:.3g}"


def kolmogorov_smirnov(x, cdf):
    """The largest distance between the empirical distribution function and ``cdf``."""
    theory = cdf(np.sort(x))
    steps = np.arange(x.size + 1) / x.size
    return max((theory - steps[:-1]).max(), (steps[1:] - theory).max())


def test_every_registered_scheme_has_a_theory_here():
    """One whose formula is no law of independent entries needs a test of its own, and a place in a list above."""
    assert set(init.names()) == LISTED | set(THEORY)


@pytest.mark.parametrize("name", ["he_normal", "glorot_truncated_normal", "lecun_uniform", "normal"])
def test_the_theory_read_from_a_formula_is_the_one_written_here(name):
    read, here = in_the_formula(name, 97, 251), THEORY[name][0][1](97, 251)
    assert (read.kind, read.mean) == (here.kind, here.mean) and read.std == pytest.approx(here.std, rel=1e-12)


@pytest.mark.parametrize("name", ["orthogonal", "identity", "shared_draw", "correlated_normal", "as_written_kaiming"])
def test_a_formula_of_dependent_or_one_sided_entries_is_no_theory(name):
    assert in_the_formula(name, 97, 251) is None


@pytest.mark.parametrize(("name", "params", "law", "layer", "dtype"), CASES)
def test_entries_follow_the_law_of_theory(name, params, law, layer, dtype):
    values = draw(init.get(name, **params), layer, dtype)
    assert values.shape == layer.shape
    assert values.dtype == dtype
    assert values.flags.c_contiguous
    check_law(values, law(layer.fan_in, layer.fan_out))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONSTANT)
def test_a_constant_scheme_fills_the_array_and_needs_no_fans(name, dtype):
    values = init.get(name)((3, 2, 1), fan_in=None, fan_out=None, rng=np.random.default_rng(0), dtype=dtype)
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, np.full((3, 2, 1), CONSTANT[name], dtype))


@pytest.mark.parametrize("layer", [LAYERS[name] for name in SEES_ALL], ids=SEES_ALL)
def test_he_keeps_the_second_moment_of_a_simulated_relu_layer(layer):
    """The purpose itself: each output is a sum of fan_in products of a weight and a ReLU. 5 standard errors."""
    weights = draw(init.he_normal(), layer, np.float64).ravel()
    terms = int(layer.fan_in)
    outputs = weights[: weights.size // terms * terms].reshape(-1, terms)
    inputs = np.maximum(np.random.default_rng(1).standard_normal((*outputs.shape, 20)), 0)
    squares = (np.einsum("ij,ijk->ik", outputs, inputs) ** 2).mean(1)
    assert abs(squares.mean() - 1) < GATE * squares.std() / math.sqrt(squares.size)


# --- mutants: the same check must reject every known bug


@dataclass(frozen=True)
class Mutant:
    """A wrong He (or Glorot) initializer: its distribution and a wrong standard deviation."""

    kind: str
    wrong_std: object  # (correct std, layer) -> the std it really has
    law: object = lambda n, m: Law("normal", keeps(RELU, n))
    shift: float = 0.0  # of the mean, in right standard deviations

    def __call__(self, shape, *, fan_in, fan_out, rng, dtype):
        layer = next(layer for layer in LAYERS.values() if layer.shape == shape)
        right = self.law(fan_in, fan_out).std
        std = self.wrong_std(right, layer)
        unit = {
            "normal": lambda: rng.standard_normal(shape),
            "uniform": lambda: rng.uniform(-math.sqrt(3), math.sqrt(3), shape),
            "cut": lambda: init.truncated_normal(std=1)(shape, fan_in=1, fan_out=1, rng=rng, dtype=np.float64),
        }[self.kind]()
        return (self.shift * right + std * unit).astype(dtype)


def he_law(kind, mode="fan_in"):
    return lambda n, m: Law(kind, keeps(RELU, MEANS[mode](n, m)))


def glorot_law(kind):
    return lambda n, m: Law(kind, keeps(1, (n + m) / 2))


def swapped(std, layer):
    return std * math.sqrt(layer.fan_in / layer.fan_out)


def variance_for_std(std, layer):
    return std**2


def limit_for_std(std, layer):
    return math.sqrt(3) * std


def std_for_limit(std, layer):
    return std / math.sqrt(3)


def not_restored(std, layer):
    return CUT_STD * std


def no_receptive_field(std, layer):
    return std * math.sqrt(layer.receptive_field)


def fourth_root(std, layer):
    return math.sqrt(std)


def glorot_for_he(std, layer):
    return keeps(1, (layer.fan_in + layer.fan_out) / 2)


def he_for_glorot(std, layer):
    return keeps(RELU, layer.fan_in)


def no_groups(std, layer):
    return std / math.sqrt(layer.groups)


def right(std, layer):
    return std


SEES_SPACE = [name for name in SEES_ALL if name != "dense"]
SEES_GROUPS = [name for name in SEES_ALL if LAYERS[name].groups > 1]
#: Every kind of bug of the rule that compares a weight with its formula (science §5, W1), and a few more.
MUTANTS = {
    "swapped fans": (Mutant("normal", swapped), he_law("normal"), SEES_ALL),
    "swapped fans, uniform": (Mutant("uniform", swapped), he_law("uniform"), SEES_ALL),
    "variance taken for std": (Mutant("normal", variance_for_std), he_law("normal"), SEES_ALL),
    "limit of the uniform law taken for std": (Mutant("normal", limit_for_std), he_law("normal"), SEES_ALL),
    "std taken for the limit of the uniform law": (Mutant("uniform", std_for_limit), he_law("uniform"), SEES_ALL),
    "uncorrected truncation": (Mutant("cut", not_restored), he_law("cut"), SEES_ALL),
    "missing receptive field": (Mutant("normal", no_receptive_field), he_law("normal"), SEES_SPACE),
    "missing receptive field, uniform": (
        Mutant("uniform", no_receptive_field),
        he_law("uniform"),
        SEES_SPACE,
    ),
    "uniform where normal was promised": (Mutant("uniform", lambda s, _: s), he_law("normal"), SEES_ALL),
    "cut where normal was promised": (Mutant("cut", lambda s, _: s), he_law("normal"), SEES_ALL),
    "normal where cut was promised": (Mutant("normal", lambda s, _: s), he_law("cut"), SEES_ALL),
    "standard deviation taken for variance": (Mutant("normal", fourth_root), he_law("normal"), SEES_ALL),
    "Glorot where He was meant": (Mutant("normal", glorot_for_he), he_law("normal"), SEES_ALL),
    "He where Glorot was meant": (
        Mutant("normal", he_for_glorot, glorot_law("normal")),
        glorot_law("normal"),
        SEES_ALL,
    ),
    "groups missing in fan_in": (Mutant("normal", no_groups), he_law("normal"), SEES_GROUPS),
    "groups missing in fan_out": (
        Mutant("uniform", no_groups, he_law("uniform", "fan_out")),
        he_law("uniform", "fan_out"),
        SEES_GROUPS,
    ),
    "not centred": (Mutant("normal", right, shift=0.1), he_law("normal"), SEES_ALL),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("mutant", "law", "label"),
    [pytest.param(m, law, label, id=f"{name}-{label}") for name, (m, law, seen) in MUTANTS.items() for label in seen],
)
def test_the_check_kills_the_mutant(mutant, law, label, dtype):
    layer = LAYERS[label]
    with pytest.raises(AssertionError):
        check_law(draw(mutant, layer, dtype), law(layer.fan_in, layer.fan_out))


@pytest.mark.parametrize("kind", ["normal", "uniform", "cut"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_the_same_construction_without_a_bug_passes_the_check(kind, layer):
    values = draw(Mutant(kind, lambda std, layer: std), layer, np.float64)
    check_law(values, he_law(kind)(layer.fan_in, layer.fan_out))


# --- single behaviours


@pytest.mark.parametrize("cut, std", [(1, 0.53956), (1.5, 0.74265), (2.5, 0.95460), (3, 0.98658), (4, 0.99946)])
def test_the_std_of_a_cut_normal_matches_the_published_values(cut, std):
    assert truncated_std(cut) == pytest.approx(std, abs=5e-6)


def test_the_std_of_the_usual_cut_is_known_to_all_digits():
    assert truncated_std(2.0) == pytest.approx(CUT_STD, rel=1e-15)


@pytest.mark.parametrize("cut", [0.1, 0.5, 1.0, 3.0])
def test_a_cut_normal_has_the_std_asked_for_at_any_cut(cut):
    """5 standard errors of the variance; the kurtosis of any cut normal is at most the normal one's."""
    scheme = init.truncated_normal(std=0.5, cut=cut)
    values = scheme((30_000,), fan_in=None, fan_out=None, rng=np.random.default_rng(3), dtype=np.float64)
    assert abs(values.var() / 0.25 - 1) < GATE * math.sqrt(2 / values.size)
    assert abs(values).max() <= 0.5 * cut / truncated_std(cut)


@pytest.mark.parametrize("name", init.names())
def test_the_same_generator_state_gives_the_same_weights(name):
    layer = LAYERS["conv 3x5"]
    np.testing.assert_array_equal(draw(init.get(name), layer, seed=5), draw(init.get(name), layer, seed=5))


@pytest.mark.parametrize("name", [name for name in init.names() if name not in DETERMINISTIC])
def test_float64_weights_are_drawn_in_float64_and_not_widened(name):
    values = draw(init.get(name), LAYERS["dense"], np.float64)
    values = values[values != 0]
    assert (values != values.astype(np.float32)).mean() > 0.9


@pytest.mark.parametrize("name", [name for name in init.names() if name not in DETERMINISTIC])
def test_another_generator_state_gives_other_weights(name):
    one, other = (draw(init.get(name), LAYERS["conv 3x5"], seed=seed) for seed in (5, 6))
    drawn = (one != 0) | (other != 0)  # the zeros between the taps stay
    assert (one != other)[drawn].mean() > 0.99


@pytest.mark.parametrize("name", sorted(DETERMINISTIC - set(CONSTANT)))
def test_a_scheme_without_chance_gives_the_same_weights_in_any_state(name):
    layer = LAYERS["conv 3x5"]
    np.testing.assert_array_equal(draw(init.get(name), layer, seed=5), draw(init.get(name), layer, seed=6))


@pytest.mark.parametrize("name", init.names())
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (3, 0), (2, 3, 1, 1)])
def test_small_and_empty_shapes_work(name, shape):
    values = init.get(name)(shape, fan_in=3, fan_out=2, rng=np.random.default_rng(0), dtype=np.float32)
    assert values.shape == shape
    assert np.isfinite(values).all()


@pytest.mark.parametrize("name", [name for name in init.names() if name not in STRUCTURED])
@pytest.mark.parametrize("shape", [(), (5,)])
def test_a_scheme_with_independent_entries_takes_vectors_and_scalars(name, shape):
    values = init.get(name)(shape, fan_in=3, fan_out=2, rng=np.random.default_rng(0))
    assert isinstance(values, np.ndarray)
    assert values.shape == shape
    assert values.dtype == np.float32


def test_he_and_kaiming_and_glorot_and_xavier_are_the_same_functions():
    for law in ("normal", "uniform", "truncated_normal"):
        assert getattr(init, f"kaiming_{law}") is getattr(init, f"he_{law}")
        assert getattr(init, f"xavier_{law}") is getattr(init, f"glorot_{law}")


@pytest.mark.oracle
def test_moments_agree_with_pytorch_on_a_dense_layer():
    """Two samples of 24 347 weights: variances within 5 standard errors of their difference."""
    torch = pytest.importorskip("torch")
    layer, generator = LAYERS["dense"], torch.Generator().manual_seed(0)
    theirs = {
        "he_normal": lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="relu", generator=generator),
        "he_uniform": lambda w: torch.nn.init.kaiming_uniform_(w, nonlinearity="relu", generator=generator),
        "glorot_normal": lambda w: torch.nn.init.xavier_normal_(w, generator=generator),
        "glorot_uniform": lambda w: torch.nn.init.xavier_uniform_(w, generator=generator),
    }
    for name, fill in theirs.items():
        ratio = draw(init.get(name), layer).var() / float(fill(torch.empty(layer.shape)).var())
        assert abs(ratio - 1) < GATE * math.sqrt(2 * 2 / math.prod(layer.shape)), name


# --- wrong arguments


def call(scheme, shape=(4, 3), fan_in=3, fan_out=4, rng=None, dtype=np.float32):
    rng = np.random.default_rng(0) if rng is None else rng
    return scheme(shape, fan_in=fan_in, fan_out=fan_out, rng=rng, dtype=dtype)


@pytest.mark.parametrize("rng", [0, np.random.RandomState(0), np.random, "seed"])
def test_a_seed_or_an_old_generator_is_refused(rng):
    with pytest.raises(TypeError, match="rng must be a numpy.random.Generator"):
        call(init.he_normal(), rng=rng)


@pytest.mark.parametrize("dtype", [np.int64, np.complex64, bool])
def test_a_dtype_that_is_no_float_is_refused(dtype):
    with pytest.raises(TypeError, match="float16, float32 or float64"):
        call(init.zeros(), dtype=dtype)


@pytest.mark.parametrize("shape", [(3, -1), (2.0, 3), 5, "ab"])
def test_a_shape_that_is_none_is_refused(shape):
    with pytest.raises(ValueError, match="shape must be a tuple of whole numbers"):
        call(init.zeros(), shape=shape)


@pytest.mark.parametrize("fan", [0, -3, math.nan, math.inf, None, "3", True])
def test_a_fan_must_be_a_positive_number(fan):
    with pytest.raises(ValueError, match="he_normal: fan_in must be a positive number"):
        call(init.he_normal(), fan_in=fan)
    with pytest.raises(ValueError, match="glorot_uniform: fan_out must be a positive number"):
        call(init.glorot_uniform(), fan_out=fan)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: init.he_normal(mode="fanin"), "did you mean 'fan_in'"),
        (lambda: init.he_normal(negative_slope=math.inf), "negative_slope must be finite"),
        (lambda: init.variance_scaling(distribution="gauss"), "unknown distribution 'gauss'"),
        (lambda: init.variance_scaling(scale=-1), "must be finite and >= 0, got -1"),
        (lambda: init.glorot_normal(gain=math.nan), "gain must be finite, got nan"),
        (lambda: init.prior_bias(0.0), "a probability lies between 0 and 1, got 0.0"),
        (lambda: init.prior_bias(1), "a probability lies between 0 and 1, got 1"),
        (lambda: init.prior_bias([3, 0, 2]), r"every class needs a positive count or share, got \[3, 0, 2\]"),
        (lambda: init.prior_bias([]), "every class needs a positive count or share"),
        (lambda: init.normal(std=-0.1), "std must be finite and >= 0, got -0.1"),
        (lambda: init.normal(mean=math.inf), "mean must be finite"),
        (lambda: init.uniform(low=1, high=0), "low=1 is above high=0"),
        (lambda: init.constant(math.nan), "value must be finite"),
        (lambda: init.truncated_normal(cut=0.01), "cut must be at least 0.1"),
        (lambda: init.orthogonal(gain=math.inf), "gain must be finite"),
        (lambda: init.glorot_normal(mode="fan_geometri"), "did you mean 'fan_geometric'"),
        (lambda: init.mup(role="first"), "unknown role 'first'"),
        (lambda: init.mup("output", base_width=0), "base_width must be at least 1, got 0"),
        (lambda: init.mup("output", scale=-1), "must be finite and >= 0, got -1"),
        (lambda: init.keras_2_0_9("he_uniform"), "unknown normal scheme of Keras 2.0.9 'he_uniform'"),
        (lambda: init.edge_of_chaos(sigma_b=-1), "sigma_b is the std of the biases, a finite number >= 0; got -1"),
        (lambda: init.edge_of_chaos("relu", 0.1), "'relu' has no edge of chaos with sigma_b = 0.1"),
        (lambda: init.kumar(lambda x: x * x), "is flat at 0"),
        (lambda: init.sigmoid_glorot(math.nan), "gain must be finite, got nan"),
        (lambda: init.identity(gain=math.inf), "gain must be finite"),
        (lambda: init.delta_orthogonal(gain=math.nan), "gain must be finite"),
        (lambda: init.looks_linear(gain=math.nan), "gain must be finite"),
        (lambda: init.sparse(connections=0), "a whole number or a share in"),
        (lambda: init.sparse(connections=2.5), "a whole number or a share in"),
        (lambda: init.sparse(std=-1), "std must be finite and >= 0, got -1"),
        (lambda: init.correlated_normal(rho=1.5), r"rho must lie in \[0, 1\], got 1.5"),
        (lambda: init.correlated_normal(scale=-2), "scale must be finite and >= 0, got -2"),
        (lambda: init.shared_draw(among="unit"), "did you mean 'units'"),
        (lambda: init.shared_draw(seed=-1), "seed must be a whole number >= 0, got -1"),
    ],
)
def test_a_parameter_out_of_range_is_refused_when_the_scheme_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- large arrays are drawn in blocks


@pytest.mark.parametrize("name", ["normal", "uniform", "truncated_normal"])
@pytest.mark.host("draws on the host with several threads")
def test_a_large_array_does_not_depend_on_the_number_of_threads(name):
    shape = (3, BLOCK + 5)
    draws = []
    for count in (1, 2, 3):
        threads.use(count)
        try:
            draws.append(init.get(name)(shape, fan_in=1, fan_out=1, rng=np.random.default_rng(4)))
        finally:
            threads.use(None)
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])


@pytest.mark.host("draws on the host")
def test_the_blocks_of_a_large_array_are_independent_and_follow_the_law():
    values = init.normal(std=1.0)((4, BLOCK), fan_in=1, fan_out=1, rng=np.random.default_rng(5))
    assert abs(np.corrcoef(values) - np.eye(4)).max() < GATE / math.sqrt(BLOCK)
    for block in values:
        check_law(block[-50_000:].astype(np.float64), Law("normal", 1.0))
