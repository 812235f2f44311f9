"""From schemes to models, on small stand-ins for modules: ``init`` must not need ``nn``."""

import math

import numpy as np
import pytest
from conftest import DEVICE, fetch, weights

from minidl import backend, init


class Param:
    def __init__(self, shape, dtype=np.float32):
        self.data = backend.to_device(np.full(shape, 7, dtype), DEVICE)


class Dense:
    def __init__(self, n, m, dtype=np.float32, init_="he_normal", bias=True):
        self.weight = Param((m, n), dtype)
        self.bias = Param((m,), dtype) if bias else None
        self.fans = init.dense_fans(n, m)
        self.initializers = {"weight": init.get(init_), "bias": init.zeros()}


class Norm:
    def __init__(self, n):
        self.weight, self.bias = Param((n,)), Param((n,))
        self.initializers = {"weight": init.ones(), "bias": init.zeros()}


class Own:
    """A student's layer with a parameter of its own, which declares nothing."""

    def __init__(self):
        self.scale = Param((3,))


class Model:
    def __init__(self, **modules):
        self.modules = modules

    def named_modules(self):
        yield "", self
        yield from self.modules.items()

    def named_parameters(self):
        for path, module in self.modules.items():
            for name, value in vars(module).items():
                if isinstance(value, Param):
                    yield f"{path}.{name}", value


def network(**kwargs):
    return Model(first=Dense(40, 30, **kwargs), norm=Norm(30), second=Dense(30, 10, **kwargs), own=Own())


def schemes(report):
    return {record["parameter"]: record["scheme"] for record in report.records}


def test_without_a_scheme_every_layer_gets_what_it_declares():
    model = network()
    report = init.apply(model)
    assert schemes(report) == {
        "first.weight": "he_normal",
        "first.bias": "zeros",
        "norm.weight": "ones",
        "norm.bias": "zeros",
        "second.weight": "he_normal",
        "second.bias": "zeros",
    }
    assert not model.modules["first"].bias.data.any()
    assert (model.modules["norm"].weight.data == 1).all()


def test_the_values_are_the_initializers_own_from_the_named_stream():
    model = network()
    init.apply(model, "glorot_uniform", seed=3)
    rng = init.stream(3, "second.weight")
    expected = init.glorot_uniform()((10, 30), fan_in=30, fan_out=10, rng=rng, dtype=np.float32)
    np.testing.assert_array_equal(fetch(model.modules["second"].weight.data), expected)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    one, two, other = network(), network(), network()
    for model, seed in ((one, 1), (two, 1), (other, 2)):
        init.apply(model, seed=seed)
    np.testing.assert_array_equal(weights(one)["first.weight"], weights(two)["first.weight"])
    assert (weights(one)["first.weight"] != weights(other)["first.weight"]).mean() > 0.99


def test_weights_do_not_depend_on_the_order_of_construction_or_on_other_layers():
    second, first = Dense(30, 10), Dense(40, 30)
    reordered = Model(second=second, extra=Dense(5, 5), first=first)
    plain = network()
    init.apply(reordered, seed=4)
    init.apply(plain, seed=4)
    for path in ("first.weight", "second.weight"):
        np.testing.assert_array_equal(weights(reordered)[path], weights(plain)[path])


def test_a_bare_name_changes_the_weights_with_fans_only():
    assert schemes(init.apply(network(), "lecun_normal")) == {
        "first.weight": "lecun_normal",
        "first.bias": "zeros",
        "norm.weight": "ones",
        "norm.bias": "zeros",
        "second.weight": "lecun_normal",
        "second.bias": "zeros",
    }


def test_an_initializer_works_like_a_name():
    report = init.apply(network(), init.he_normal(mode="fan_out"))
    assert schemes(report)["first.weight"] == "he_normal(mode='fan_out')"


def test_a_parameter_notes_what_drew_it_and_its_layer_declares_what_it_did():
    model = network()
    init.apply(model, {"first.*": "orthogonal", "*.bias": "ones"})
    noted = {path: init.registry.title(p.drawn_by) for path, p in model.named_parameters() if "own" not in path}
    assert noted == {
        "first.weight": "orthogonal",
        "first.bias": "ones",
        "norm.weight": "ones",
        "norm.bias": "ones",
        "second.weight": "he_normal",
        "second.bias": "ones",
    }
    assert schemes(init.apply(model)) == schemes(init.apply(network()))


def test_an_earlier_call_has_no_part_in_what_a_later_one_gives():
    used, fresh = network(), network()
    init.apply(used, "zeros", seed=5)
    for model in (used, fresh):
        init.apply(model, {"first.*": "orthogonal"}, seed=3)
    for path, value in weights(used).items():
        np.testing.assert_array_equal(value, weights(fresh)[path])


def test_the_star_pattern_means_the_same_as_a_bare_name():
    assert schemes(init.apply(network(), {"*": "normal"})) == schemes(init.apply(network(), "normal"))


def test_the_first_pattern_that_fits_wins():
    chosen = schemes(init.apply(network(), {"first.*": "orthogonal", "*.weight": "lecun_uniform"}))
    assert chosen["first.weight"] == "orthogonal"
    assert chosen["second.weight"] == "lecun_uniform"
    assert chosen["norm.weight"] == "ones"


def test_a_pattern_that_fits_no_weight_with_fans_speaks_of_the_other_parameters():
    rules = {"*.bias": "constant", "norm.weight": init.constant(0.5)}
    model = network()
    chosen = schemes(init.apply(model, rules))
    assert [path for path, scheme in chosen.items() if scheme == "constant"] == [
        "first.bias",
        "norm.bias",
        "second.bias",
    ]
    assert (model.modules["norm"].weight.data == 0.5).all()
    assert chosen["first.weight"] == "he_normal"


def test_a_pattern_that_fits_nothing_lists_the_paths():
    with pytest.raises(
        ValueError, match=r"'third\.\*' fits no parameter; the parameters are: first.weight, first.bias"
    ):
        init.apply(network(), {"third.*": "zeros"})


def test_a_pattern_hidden_by_an_earlier_one_is_refused():
    with pytest.raises(ValueError, match=r"'first\.\*' never applies: '\*' comes first.*'\*\.bias'"):
        init.apply(network(), {"*": "he_normal", "first.*": "zeros"})


def test_a_bare_name_on_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match="he_normal has nothing to set"):
        init.apply(Model(norm=Norm(3)), "he_normal")


def test_an_unknown_scheme_in_a_rule_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'he_normal'"):
        init.apply(network(), {"*": "he_norma"})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_parameters_keep_their_dtype(dtype):
    model = network(dtype=dtype)
    init.apply(model, "glorot_normal")
    assert model.modules["first"].weight.data.dtype == dtype
    assert model.modules["first"].bias.data.dtype == dtype


def test_parameters_stay_on_their_device(monkeypatch):
    class Remote:
        def __init__(self, host):
            self.host, self.shape, self.dtype = host, host.shape, host.dtype

    monkeypatch.setattr(backend, "_BY_TYPE", dict(backend._BY_TYPE))
    backend.register(backend.Library("remote", "far away", Remote, np, Remote, lambda x: x.host))
    here, there = Model(only=Dense(4, 3)), Model(only=Dense(4, 3))
    for parameter in (there.modules["only"].weight, there.modules["only"].bias):
        parameter.data = Remote(fetch(parameter.data))
    init.apply(here)
    init.apply(there)
    assert isinstance(there.modules["only"].weight.data, Remote)
    np.testing.assert_array_equal(there.modules["only"].weight.data.host, fetch(here.modules["only"].weight.data))


def test_a_module_is_told_after_its_parameters_were_set_and_gets_its_own_stream():
    class Following(Dense):
        def after_init(self, rng):
            self.length, self.drawn = np.linalg.norm(fetch(self.weight.data)), rng.integers(2**32)

    module = Following(4, 3)
    init.apply(Model(layer=module), seed=2)
    assert module.length == np.linalg.norm(fetch(module.weight.data))
    assert module.drawn == init.stream(2, "layer").integers(2**32)


def test_parameters_without_a_declared_initializer_are_left_and_reported():
    model = network()
    report = init.apply(model)
    assert (model.modules["own"].scale.data == 7).all()
    assert report.untouched == ["own.scale"]
    assert "not drawn, for no initializer is declared: own.scale" in str(report)


def test_a_layer_without_its_bias_is_no_trouble():
    report = init.apply(Model(only=Dense(4, 3, bias=False)))
    assert list(schemes(report)) == ["only.weight"]


def test_a_shared_parameter_is_set_once_under_its_first_name():
    first, second = Dense(5, 5), Dense(5, 5)
    second.weight = first.weight
    report = init.apply(Model(first=first, second=second))
    assert list(schemes(report)) == ["first.weight", "first.bias", "second.bias"]
    assert not report.untouched


def test_nothing_is_changed_when_one_parameter_cannot_be_drawn():
    model = network()
    before = weights(model)
    with pytest.raises(ValueError, match="norm.weight: orthogonal: shape"):
        init.apply(model, {"norm.weight": "orthogonal", "*": "he_normal"})
    for path, value in weights(model).items():
        np.testing.assert_array_equal(value, before[path])


def test_a_users_function_is_applied_and_cast():
    def wide(shape, *, fan_in, fan_out, rng, dtype=np.float32):
        return np.full(shape, fan_in, np.float64).T.copy().T

    model = network()
    report = init.apply(model, wide)
    values = model.modules["first"].weight.data
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    assert (values == 40).all()
    assert schemes(report)["first.weight"] == "wide"


def test_a_users_function_of_the_wrong_shape_is_refused():
    def flat(shape, *, fan_in, fan_out, rng, dtype=np.float32):
        return np.zeros(math.prod(shape), dtype)

    with pytest.raises(ValueError, match=r"first.weight: flat returned shape \(1200,\), expected \(30, 40\)"):
        init.apply(network(), flat)


def test_the_records_say_what_was_measured():
    record = init.apply(network(), "he_normal").records[0]
    assert record["parameter"] == "first.weight"
    assert record["shape"] == (30, 40)
    assert (record["fan_in"], record["fan_out"]) == (40, 30)
    assert record["law"] == repr(init.he_normal())
    assert record["std"] == pytest.approx(math.sqrt(2 / 40), rel=0.1)  # 1200 weights: 5 standard errors are 0.1


def test_the_report_prints_as_a_table_with_each_law_once():
    text = str(init.apply(network(), seed=9))
    assert max(map(len, text.splitlines()[:8])) <= 100
    assert "first.weight" in text
    assert text.count(repr(init.he_normal())) == 1
    assert "seed 9" in text


@pytest.mark.host("numbers are drawn on the host")
def test_a_stream_depends_on_the_seed_and_on_every_letter_of_the_path():
    draws = {
        (seed, path): tuple(init.stream(seed, path).standard_normal(4))
        for seed in (0, 1, 2**40)
        for path in ("", "a", "b", "ab", "ba", "layers.1.weight", "layers.11.weight", "σ")
    }
    assert len(set(draws.values())) == len(draws)


@pytest.mark.host("numbers are drawn on the host")
def test_streams_of_neighbouring_names_are_uncorrelated():
    """All pairs of 20 streams of 10 000 numbers: correlation below 5 standard errors (190 pairs: one alarm in 9000)."""
    streams = np.array([init.stream(0, f"layers.{i}.weight").standard_normal(10_000) for i in range(20)])
    correlation = np.corrcoef(streams) - np.eye(20)
    assert abs(correlation).max() < 5 / math.sqrt(10_000)


@pytest.mark.host("numbers are drawn on the host")
def test_a_stream_is_the_same_for_ever():
    """Published weights depend on these numbers: a change here must be announced in the changelog."""
    assert init.stream(0, "layers.0.weight").integers(2**32, size=3).tolist() == [2375635653, 4177844619, 1293968281]


@pytest.mark.host("numbers are drawn on the host")
@pytest.mark.parametrize(("seed", "error"), [(None, TypeError), (1.0, TypeError), (True, TypeError), (-1, ValueError)])
def test_a_seed_must_be_a_whole_number(seed, error):
    with pytest.raises(error, match="seed must be a whole number >= 0"):
        init.stream(seed, "a")
