"""Schemes by name."""

import pickle

import numpy as np
import pytest

from minidl import init
from minidl.init import registry


@pytest.fixture
def empty_registry(monkeypatch):
    monkeypatch.setattr(registry, "_SCHEMES", {})
    monkeypatch.setattr(registry, "_ALIASES", {})


def test_names_are_sorted_family_by_family():
    listed = init.names()
    constant, orthogonal, scaling = listed.index("zeros"), listed.index("orthogonal"), listed.index("glorot_normal")
    assert constant < orthogonal < scaling
    assert listed.index("glorot_normal") < listed.index("he_normal") < listed.index("lecun_normal")


def test_every_name_and_alias_is_a_function_of_the_package():
    for name in [*init.names(), *registry._ALIASES]:
        assert name in dir(init)
        assert repr(getattr(init, name)()) == repr(init.get(name))


def test_names_lists_no_aliases_but_get_knows_them():
    assert "kaiming_normal" not in init.names()
    assert init.get("kaiming_normal", mode="fan_out").name == "he_normal"


def test_the_repr_shows_parameters_and_formula():
    assert repr(init.get("he_normal")) == "he_normal(mode='fan_in', negative_slope=0.0): W ~ N(0, 2/((1+a²) fan_in))"
    assert (
        repr(init.glorot_uniform()) == "glorot_uniform(gain=1.0, mode='fan_avg'): W ~ U(±gain √(6/(fan_in + fan_out)))"
    )


def test_the_short_form_shows_what_differs_from_the_defaults():
    assert str(init.he_normal()) == "he_normal"
    assert str(init.he_normal("fan_out")) == "he_normal(mode='fan_out')"


@pytest.mark.parametrize("name", init.names())
def test_every_scheme_shows_its_law_and_has_a_docstring_with_it(name):
    assert repr(init.get(name)).startswith(f"{name}(")
    assert ("): b" if name == "prior_bias" else "): W") in repr(init.get(name))
    assert "``" in getattr(init, name).__doc__.splitlines()[0]


def test_a_parameter_may_be_an_array_and_is_shown_and_pickled():
    counts = init.get("prior_bias", p=np.array([3, 1]))
    assert str(counts) == "prior_bias(p=array([3, 1]))"
    assert repr(pickle.loads(pickle.dumps(counts))) == repr(counts)
    assert str(init.prior_bias(np.array([0.01, 0.01]))) == "prior_bias(p=array([0.01, 0.01]))"  # not the default 0.01


@pytest.mark.parametrize("name", init.names())
def test_an_initializer_survives_pickling(name):
    original = init.get(name)
    copy = pickle.loads(pickle.dumps(original))
    drawn = [i((4, 3), fan_in=3, fan_out=4, rng=np.random.default_rng(0)) for i in (original, copy)]
    assert repr(copy) == repr(original)
    np.testing.assert_array_equal(*drawn)


def test_an_initializer_passes_through_as_it_is():
    initializer = init.he_normal()
    assert init.get(initializer) is initializer


def test_a_users_own_function_passes_through_as_it_is():
    def mine(shape, *, fan_in, fan_out, rng, dtype=np.float32):
        return np.ones(shape, dtype)

    assert init.get(mine) is mine


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown scheme 'he_norml'; did you mean 'he_normal'"):
        init.get("he_norml")
    with pytest.raises(ValueError, match="did you mean 'xavier_uniform'"):
        init.get("xavier_unifrom")


def test_an_unknown_parameter_names_the_accepted_ones():
    with pytest.raises(
        TypeError, match="scheme 'he_normal' has no parameter 'slope'; it accepts: mode, negative_slope"
    ):
        init.get("kaiming_normal", slope=0.1)
    with pytest.raises(TypeError, match="accepts: none"):
        init.get("zeros", value=1)


def test_parameters_beside_an_initializer_are_refused():
    with pytest.raises(TypeError, match="he_normal is an initializer already, so mode cannot be set"):
        init.get(init.he_normal(), mode="fan_out")


def test_a_scheme_that_was_not_called_is_refused():
    with pytest.raises(TypeError, match="must be called first"):
        init.get(init.he_normal)


@pytest.mark.parametrize("scheme", [3, None, ["he_normal"]])
def test_something_that_is_no_scheme_is_refused(scheme):
    with pytest.raises(TypeError, match="a scheme is a name or an initializer"):
        init.get(scheme)


def test_a_new_scheme_takes_one_function(empty_registry):
    @init.register(aliases=("halves",))
    def half(sign: int = 1) -> init.Initializer:
        """``W = sign/2``."""
        return init.Initializer("W = sign/2", lambda r: np.full(r.shape, sign / 2, r.dtype))

    assert init.names() == ["half"]
    assert repr(init.get("halves", sign=-1)) == "half(sign=-1): W = sign/2"
    assert half(-1)((2,), fan_in=None, fan_out=None, rng=np.random.default_rng(0)).tolist() == [-0.5, -0.5]


def test_a_name_cannot_be_registered_twice(empty_registry):
    def zeros() -> init.Initializer:
        return init.Initializer("W = 0", lambda r: np.zeros(r.shape, r.dtype))

    init.register(aliases=("nothing",))(zeros)
    with pytest.raises(ValueError, match="'zeros' is registered already"):
        init.register()(zeros)
    zeros.__name__ = "nothing"
    with pytest.raises(ValueError, match="'nothing' is registered already"):
        init.register()(zeros)
