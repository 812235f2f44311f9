"""What the probe measures on request: histograms, correlation of inputs, singular values of the Jacobian."""

import math

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import init, lab, models, nn, ops
from minidl.lab import closer

RNG = np.random.default_rng


class Gives(nn.Module):
    """The same output whatever comes in."""

    def __init__(self, output):
        self.output = output

    def forward(self, x):
        return x.reshape((len(x), -1)).sum() * 0 + tensor(np.asarray(self.output, np.float32)).data


def bins_of(output, **options):
    """Edges, densities and the share of the outputs in the bins."""
    found = closer.histograms(
        nn.Sequential(gives=Gives(output)), tensor(np.ones((len(output), 2), np.float32)), **options
    )
    edges = np.array([r["low"] for r in found] + [found[-1]["high"]])
    density = np.array([r["density"] for r in found])
    return edges, density, float((density * np.diff(edges)).sum())


# -------------------------------------------------------------------------------------------------------- histograms


def test_the_bins_of_a_layer_are_those_of_a_count():
    h = RNG(0).normal(size=(50, 40)).astype(np.float32)
    edges, density, share = bins_of(h, bins=20)
    count, _ = np.histogram(h.astype(np.float64), edges)
    width = edges[1] - edges[0]
    assert len(density) == 20 and np.allclose(np.diff(edges), width)
    np.testing.assert_allclose(density * width * h.size, count, atol=1e-6)
    assert edges[0] == h.min() and edges[-1] == h.max() and share == pytest.approx(1)


def test_the_zeros_of_a_relu_are_in_the_first_bin():
    h = np.maximum(RNG(0).normal(size=(50, 40)), 0)
    edges, density, share = bins_of(h)
    assert edges[0] == 0 and share == pytest.approx(1)
    assert density[0] * edges[1] == pytest.approx(np.mean(h < edges[1]))


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e20, 1e37])
def test_the_bins_of_a_huge_or_tiny_layer_are_those_of_a_usual_one_rescaled(scale):
    h = RNG(0).normal(size=(50, 40)).astype(np.float32)
    usual, scaled = bins_of(h), bins_of(h * np.float32(scale))
    np.testing.assert_allclose(scaled[0] / scale, usual[0], rtol=1e-5, atol=1e-6)
    assert scaled[2] == pytest.approx(1)


def test_an_outlier_does_not_push_all_others_into_one_bin():
    h = RNG(0).normal(size=(50, 40))
    h[3, 4] = 1e30
    edges, density, share = bins_of(h)
    assert edges[-1] < 20 and (density > 0).sum() > 20
    assert share == pytest.approx(1 - 1 / h.size)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out_and_shows_in_the_sum(bad):
    h = RNG(0).normal(size=(50, 40))
    h[:10] = bad
    edges, _, share = bins_of(h)
    assert np.isfinite(edges).all() and share == pytest.approx(0.8)


def test_a_layer_without_any_finite_output_has_one_empty_bin():
    found = closer.histograms(
        nn.Sequential(gives=Gives(np.full((4, 3), math.nan))), tensor(np.ones((4, 2), np.float32))
    )
    assert len(found) == 1 and found[0]["density"] == 0 and math.isnan(found[0]["low"])


@pytest.mark.parametrize("value", [0.0, 2.5, -1e-30])
def test_a_layer_whose_outputs_are_all_the_same_has_them_in_one_bin(value):
    edges, density, share = bins_of(np.full((8, 5), value))
    assert edges[0] < value < edges[-1] and share == pytest.approx(1) and (density > 0).sum() == 1


def test_a_layer_of_few_values_that_differ_is_seen_whole():
    h = np.zeros((50, 40))
    h[0, :5] = 7
    edges, _, share = bins_of(h)
    assert (edges[0], edges[-1], share) == (0, 7, pytest.approx(1))


# ------------------------------------------------------------------------------------------------------- correlation


def mean_cosine(h):
    """Over all pairs, from the table of pairs, in float64."""
    rows = h.reshape(len(h), -1).astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    table = unit @ unit.T
    return table[~np.eye(len(h), dtype=bool)].mean()


@pytest.mark.parametrize("shape", [(2, 5), (16, 30), (5, 3, 4, 6)])
@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (1, 1), (3, 1e-30), (0.5, 1e30)])
def test_the_cosine_is_the_mean_over_all_pairs(shape, offset, scale):
    x = ((RNG(1).normal(size=shape) + offset) * scale).astype(np.float32)
    found = closer.correlation(nn.Sequential(same=nn.Identity()).to(DEVICE), tensor(x))
    assert [r["layer"] for r in found] == ["same"]
    assert found[0]["cosine"] == pytest.approx(mean_cosine(x), abs=2e-6)


def test_nearly_parallel_outputs_are_told_apart_to_the_last_digits():
    """1 - cosine of 1e-10, where a cosine in float32 would be 1 exactly."""
    h = (RNG(2).normal(size=(1, 40)) + 1e-5 * RNG(3).normal(size=(16, 40))).astype(np.float32)
    found = closer.correlation(nn.Sequential(same=nn.Identity()).to(DEVICE), tensor(h))[0]
    assert 1 - found["cosine"] == pytest.approx(1 - mean_cosine(h), rel=0.01) and 1 - found["cosine"] < 1e-9


def test_a_small_step_is_a_thousandth_of_the_input_and_random():
    """At right angles to x in many dimensions: cos = 1/√(1 + 1e-6), so 1 - cos = 5e-7."""
    x = 3e7 * RNG(0).normal(size=(16, 2000)).astype(np.float32)
    found = closer.correlation(nn.Sequential(same=nn.Identity()).to(DEVICE), tensor(x))[0]
    assert 1 - found["near"] == pytest.approx(5e-7, rel=0.02)


def test_outputs_without_direction_are_left_out():
    x = RNG(0).normal(size=(8, 6)).astype(np.float32)
    x[2] = x[5] = -1
    x[x < 0] -= 1
    model = nn.Sequential(relu=nn.ReLU()).to(DEVICE)
    kept = np.maximum(np.delete(x, (2, 5), axis=0), 0)
    kept = kept[kept.any(axis=1)]
    assert closer.correlation(model, tensor(x))[0]["cosine"] == pytest.approx(mean_cosine(kept), abs=1e-6)


def test_where_nothing_has_a_direction_there_is_no_correlation():
    x = -np.ones((8, 6), np.float32)
    found = closer.correlation(nn.Sequential(relu=nn.ReLU()).to(DEVICE), tensor(x))
    assert found == [{"layer": "relu", "cosine": None, "near": None}]


def test_one_input_alone_has_no_correlation():
    with pytest.raises(ValueError, match=r"at least two; got shape \(1, 6\)"):
        closer.correlation(nn.Sequential(relu=nn.ReLU()).to(DEVICE), tensor(np.ones((1, 6), np.float32)))


def arc_cosine(c):
    """What a wide ReLU layer with He's weights makes of the correlation of two inputs. Cho & Saul 2009."""
    return (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi


def test_inputs_of_a_deep_relu_net_become_parallel_as_theory_says():
    """Of outputs, from independent inputs (c = 0): .3183 .4937 .7359 .8715 at layers 1, 2, 5, 10."""
    c, theory = 0.0, []
    for _ in range(10):
        c = arc_cosine(c)
        theory.append(c)
    np.testing.assert_allclose([theory[i] for i in (0, 1, 4, 9)], [0.3183, 0.4937, 0.7359, 0.8715], atol=5e-5)
    measured = []
    for seed in range(6):
        model = models.mlp([400] * 11 + [10], "relu", "he_normal", seed=seed).to(DEVICE)
        found = closer.correlation(model, tensor(RNG(seed).normal(size=(32, 400)).astype(np.float32)))
        measured.append([r["cosine"] for r in found if r["layer"].startswith("relu")])
    np.testing.assert_allclose(np.mean(measured, axis=0), theory, atol=0.03)  # of which one draw is 0.03 away


@pytest.mark.parametrize(("gain", "factor"), [(2.0, 1.36267), (5 / 3, 1.20983), (0.9, 0.81)])
def test_a_small_difference_grows_or_shrinks_by_chi_per_layer(gain, factor):
    """tanh: 1 - near is multiplied by χ₁ from layer to layer, relative to inputs of fixed length."""
    ratios = []
    for seed in range(6):
        model = models.mlp([400] * 13 + [10], "tanh", init.glorot_normal(gain=gain), seed=seed).to(DEVICE)
        found = closer.correlation(model, tensor(RNG(seed).normal(size=(16, 400)).astype(np.float32)))
        near = [1 - r["near"] for r in found if r["layer"].startswith("linear")]
        ratios.append((near[11] / near[7]) ** (1 / 4))
    if gain < 1:  # the whole signal shrinks by nearly the same: the angle stays
        assert 0.95 < np.mean(ratios) < 1.05
    else:
        assert np.mean(ratios) == pytest.approx(factor, rel=0.03)


# ---------------------------------------------------------------------------------------------------------- Jacobian


def values_of(found, layer):
    chosen = [r for r in found if r["layer"] == layer]
    assert [r["index"] for r in chosen] == list(range(len(chosen)))
    return np.array([r["value"] for r in chosen])


def singular(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


def test_the_jacobian_of_a_linear_net_is_the_product_of_its_weights():
    model = models.mlp([7, 9, 5, 4], "identity", seed=0).to(DEVICE)
    w = [fetch(layer.weight).astype(float) for layer in (model.linear1, model.linear2, model.output)]
    found = closer.jacobian(model, tensor(RNG(0).normal(size=(3, 7)).astype(np.float32)))
    for layer, matrix in zip(("linear1", "linear2", "output"), (w[0], w[1] @ w[0], w[2] @ w[1] @ w[0]), strict=True):
        np.testing.assert_allclose(values_of(found, layer), singular(matrix), rtol=1e-10)


def test_a_jacobian_is_the_same_in_many_small_parts(monkeypatch):
    model, x = (
        models.mlp([7, 9, 5, 4], "tanh", seed=0).to(DEVICE),
        tensor(RNG(0).normal(size=(3, 7)).astype(np.float32)),
    )
    whole = closer.jacobian(model, x)
    monkeypatch.setattr(closer, "CHUNK", 2)
    for one, other in zip(whole, closer.jacobian(model, x), strict=True):
        assert one["layer"] == other["layer"] and one["value"] == pytest.approx(other["value"], rel=1e-10)


def differences(model, x, layer):
    """The Jacobian of one layer's output from central differences in float64; the model is float64 already."""
    kept = {}
    modules = dict(model.named_modules())
    modules[layer].register_forward_hook(lambda _m, _i, output: kept.update(output=fetch(output)))
    step, columns = 1e-6, []
    for i in range(x.size):
        moved = []
        for sign in (1, -1):
            near = x.copy()
            near.reshape(-1)[i] += sign * step
            model(tensor(near))
            moved.append(kept["output"].reshape(-1))
        columns.append((moved[0] - moved[1]) / (2 * step))
    return np.array(columns).T


@pytest.mark.parametrize("which", [0, 2, -1])
def test_the_jacobian_of_branches_and_convolutions_is_that_of_finite_differences(which):
    model = nn.Sequential(
        conv=nn.Conv2d(2, 3, 3, padding=1),
        tanh=nn.Tanh(),
        block=nn.Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(), nn.Dropout(0.5))),
        both=nn.Concat(nn.Conv2d(3, 2, 1), nn.WeightNorm(nn.Conv2d(3, 1, 1))),
        pool=nn.AvgPool2d(2),
        flat=nn.Flatten(),
        out=nn.Linear(3 * 2 * 2, 4),
    )
    init.apply(model, seed=1)
    model.to(DEVICE)
    x = RNG(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    found = closer.jacobian(model, tensor(x)) if which == 0 else closer.jacobian(model, tensor(x), which)
    layers = ["conv", "block.branch.0", "both.0", "both.1", "out"]
    assert list(dict.fromkeys(r["layer"] for r in found)) == layers
    model.to("float64").eval()
    for layer in layers:
        truth = singular(differences(model, x[which][None].astype(np.float64), layer))
        np.testing.assert_allclose(values_of(found, layer), truth, atol=1e-8)


def test_a_layer_that_is_used_twice_has_two_jacobians():
    class Twice(nn.Module):
        def __init__(self):
            self.inner = nn.Linear(5, 5)

        def forward(self, x):
            return self.inner(self.inner(x))

    model = Twice().to(DEVICE)
    w = fetch(model.inner.weight).astype(float)
    values = np.array([r["value"] for r in closer.jacobian(model, tensor(np.ones((1, 5), np.float32)))])
    np.testing.assert_allclose(values, [*singular(w), *singular(w @ w)], rtol=1e-9)


def test_batch_normalization_is_held_at_the_statistics_of_the_batch():
    model = nn.Sequential(norm=nn.BatchNorm1d(6), out=nn.Linear(6, 4)).to(DEVICE)
    x = (3 * RNG(0).normal(size=(40, 6)) + 1).astype(np.float32)
    w = fetch(model.out.weight).astype(float)
    scale = 1 / np.sqrt(x.astype(float).var(axis=0, ddof=1) + 1e-5)
    np.testing.assert_allclose(values_of(closer.jacobian(model, tensor(x)), "out"), singular(w * scale), rtol=1e-5)
    still = closer.jacobian(model.eval(), tensor(x))  # evaluation: the running averages, here 0 and 1
    np.testing.assert_allclose(values_of(still, "out"), singular(w / math.sqrt(1 + 1e-5)), rtol=1e-6)


def test_constants_of_float32_in_a_layer_of_the_user_are_no_obstacle():
    class Shifted(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(x * tensor(np.full(4, 2, np.float32)).data)

    model = Shifted().to(DEVICE)
    found = closer.jacobian(model, tensor(np.ones((2, 4), np.float32)))
    assert model.linear.weight.dtype == np.float32
    np.testing.assert_allclose(values_of(found, "linear"), singular(2 * fetch(model.linear.weight)), rtol=1e-5)


def test_a_square_gaussian_matrix_has_a_mean_singular_value_of_eight_over_three_pi():
    """Glorot & Bengio's 0.8 and 0.5: 8/(3π) = 0.849 for variance 1/n, and 1/√3 of it for U(±1/√n)."""
    x = np.zeros((1, 200), np.float32)
    for scheme, mean in (("lecun_normal", 0.8488), ("torch_default", 0.4901)):
        model = nn.Sequential(linear=nn.Linear(200, 200, init=scheme)).to(DEVICE)
        init.apply(model, seed=0)
        assert values_of(closer.jacobian(model, tensor(x)), "linear").mean() == pytest.approx(mean, rel=0.01)


@pytest.mark.parametrize("gain", [1.0, 0.9])
def test_orthogonal_layers_have_a_jacobian_whose_singular_values_are_all_the_power_of_the_gain(gain):
    model = models.mlp([30] * 9 + [10], "identity", {"output*": "zeros", "*": init.orthogonal(gain=gain)}, seed=0)
    found = closer.jacobian(model.to(DEVICE), tensor(np.ones((1, 30), np.float32)))
    np.testing.assert_allclose(values_of(found, "linear8"), gain**8, rtol=1e-5)
    assert (values_of(found, "output") == 0).all()


def test_the_middle_singular_value_of_a_deep_gaussian_product_dies_while_its_size_stays():
    """n = 64, 10 layers: ln σᵢ / L → ½(ψ((n-i+1)/2) + ln(2/n)), the middle one near -0.347 per layer."""
    slopes = []
    for seed in range(5):
        model = models.mlp([64] * 11 + [10], "identity", "lecun_normal", seed=seed).to(DEVICE)
        values = values_of(closer.jacobian(model, tensor(np.ones((1, 64), np.float32))), "linear10")
        slopes.append(math.log(values[32]) / 10)
    assert np.mean(slopes) == pytest.approx(-0.347, abs=0.03)


def test_a_jacobian_that_is_too_large_is_refused_with_its_size():
    model = nn.Sequential(conv=nn.Conv2d(1, 8, 3, padding=1)).to(DEVICE)
    with pytest.raises(ValueError, match=r"layer 'conv' has 8192 × 1024 = 8,388,608 entries, more than 4,194,304"):
        closer.jacobian(model, tensor(np.ones((1, 1, 32, 32), np.float32)))


# ----------------------------------------------------------------------------------------------------- in the report


def everything():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.4), nn.Flatten(), nn.Linear(3 * 4 * 4, 3)
    )
    init.apply(model, seed=0)
    return model.to(DEVICE)


def images():
    rng = RNG(0)
    return rng.normal(size=(12, 1, 6, 6)).astype(np.float32), rng.integers(3, size=12)


def test_a_report_holds_what_was_asked_for_and_its_cost():
    x, y = images()
    plain = lab.probe(everything(), x, y)
    assert (plain.histograms, plain.correlation, plain.jacobian, list(plain.costs)) == (None, None, None, ["probe"])
    full = lab.probe(everything(), x, y, histograms=True, correlation=True, jacobian=True)
    assert full.records == plain.records and full.loss == plain.loss
    assert set(full.costs) == {"probe", "histograms", "correlation", "jacobian"}
    assert all(seconds > 0 for seconds in full.costs.values())
    paths = [r["layer"] for r in full.records]
    assert list(dict.fromkeys(r["layer"] for r in full.histograms)) == [r["layer"] for r in full.correlation] == paths
    assert list(dict.fromkeys(r["layer"] for r in full.jacobian)) == ["0", "5"]
    values = [v for rows in (full.histograms, full.correlation, full.jacobian) for r in rows for v in r.values()]
    assert {type(v) for v in values} <= {str, int, float}


@pytest.mark.parametrize("what", ["histograms", "correlation", "jacobian"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_is_measured_on_request_changes_nothing(what, fails):
    model = everything()
    x, y = images()
    ops.cross_entropy(model(tensor(x)), tensor(y).data).backward()  # gradients, averages, a generator under way
    if fails:
        setattr(model, "6", Fails())
    before = [(m, dict(vars(m))) for _, m in model.named_modules()]
    arrays = [(p, p.data, p.data.copy(), p.grad, p.requires_grad) for p in model.parameters()]
    buffers = [(array, array.copy()) for _, array in model.named_buffers()]
    masks = vars(model)["3"]._generator.bit_generator.state if DEVICE == "cpu" else None
    if fails:
        with pytest.raises(ZeroDivisionError):
            getattr(closer, what)(model, tensor(x))
    else:
        getattr(closer, what)(model, tensor(x))
    for module, attributes in before:
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[name] is value for name, value in attributes.items())
    for p, data, copy, g, wanted in arrays:
        assert p.data is data and p.grad is g and p.requires_grad is wanted
        np.testing.assert_array_equal(fetch(data), fetch(copy))
    for array, copy in buffers:
        np.testing.assert_array_equal(fetch(array), fetch(copy))
    assert masks is None or vars(model)["3"]._generator.bit_generator.state == masks


class Fails(nn.Module):
    def forward(self, x):
        return x * (1 / 0)


def test_masks_of_dropout_do_not_part_an_input_from_its_neighbour():
    x = np.random.default_rng(0).standard_normal((64, 32), dtype="float32")
    plain = models.mlp([32, 64, 64, 10], "relu", seed=0)
    layers = [layer for _, layer in plain.named_children()]
    masked = nn.Sequential(*layers[:-1], nn.Dropout(0.5), layers[-1])
    found = [lab.probe(m, x, np.zeros(64, int), correlation=True).correlation for m in (plain, masked)]
    assert found[0][-1]["near"] == pytest.approx(found[1][-1]["near"], abs=1e-7)
    assert 1 - found[1][-1]["near"] < 1e-4
    assert all(m.training for _, m in masked.named_modules())
