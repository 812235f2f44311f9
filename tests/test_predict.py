"""lab.predict: against closed forms, the published numbers of depth, and what lab.probe measures on wide networks."""

import math

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import init, lab, meanfield, models, nn

RNG = np.random.default_rng(0)


def batch(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def labels(count, classes=10):
    return np.arange(count) % classes


def drawn(model, scheme=None, seed=0):
    init.apply(model, scheme, seed=seed)
    return model.to(DEVICE)


def by_layer(prediction, key):
    return {r["layer"]: r[key] for r in prediction.records}


# ----------------------------------------------------------------------------- numbers that are exact in the limit

WIDTH = 128


def exact_net(activation, gain, depth):
    """Square layers whose second moment is gain²/n to the last digit, orthogonal inputs of second moment 1."""
    model = models.mlp([WIDTH] * (depth + 2), activation=activation, init=init.orthogonal(gain=gain), seed=0)
    x = math.sqrt(WIDTH) * np.linalg.qr(batch((WIDTH, WIDTH), dtype=np.float64))[0]
    return model.to("float64").to(DEVICE), x


def test_tanh_in_depth_has_the_published_spread():
    found = by_layer(lab.predict(*exact_net("tanh", 1.0, 50)), "std")
    expected = {1: 0.628, 2: 0.486, 5: 0.322, 10: 0.228, 20: 0.161, 50: 0.101}
    assert {layer: round(found[f"tanh{layer}"], 3) for layer in expected} == expected


def test_tanh_with_gain_five_thirds_settles_and_its_gradient_explodes():
    model, x = exact_net("tanh", 5 / 3, 50)
    prediction = lab.predict(model, x)
    assert by_layer(prediction, "std")["tanh50"] == pytest.approx(0.6513, abs=6e-5)
    assert by_layer(prediction, "saturated")["tanh50"] == pytest.approx(0.0539, abs=6e-5)
    deltas = by_layer(prediction, "delta_rms")
    assert deltas["linear1"] / deltas["linear50"] == pytest.approx(79.7, rel=0.02)
    assert (prediction.q_star, prediction.xi) == (pytest.approx(1.17848, abs=6e-6), pytest.approx(5.25, abs=6e-3))


def test_sigmoid_loses_what_tells_inputs_apart():
    prediction = lab.predict(*exact_net("sigmoid", 1.0, 12))
    found = by_layer(prediction, "batch_std")
    assert found["sigmoid11"] / found["sigmoid10"] == pytest.approx(0.2361, abs=1e-4)
    assert by_layer(prediction, "chi")["linear10"] == pytest.approx(0.0557, abs=6e-5)
    assert by_layer(prediction, "rms")["sigmoid10"] == pytest.approx(0.5145, abs=6e-5)


def test_relu_in_depth_has_the_published_correlations_and_dead_units():
    prediction = lab.predict(*exact_net("relu", math.sqrt(2), 50))
    c = by_layer(prediction, "correlation")
    expected = {1: 0.3183, 2: 0.4937, 5: 0.7359, 10: 0.8715, 20: 0.9484, 50: 0.9879}
    assert {layer: round(c[f"relu{layer}"], 4) for layer in expected} == expected
    dead = by_layer(prediction, "dead")  # B = 128: between the tables for 64 and 256
    for layer, low, high in ((5, 0.0305, 0.062), (10, 0.125, 0.171), (20, 0.248, 0.286), (50, 0.375, 0.396)):
        assert low < dead[f"relu{layer}"] < high
        assert dead[f"relu{layer}"] == pytest.approx(meanfield.dead_fraction(c[f"relu{layer - 1}"], WIDTH), rel=1e-6)
    first = next(r for r in prediction.records if r["layer"] == "relu1")
    assert (first["mean"], first["std"]) == (pytest.approx(0.5642, abs=6e-5), pytest.approx(0.8256, abs=6e-5))
    assert first["second_moment"] == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("scheme", "activation", "factor"),
    [
        ("glorot_normal", "relu", 0.7071),
        ("he_normal", "relu", 1.0),
        ("he_normal", "identity", math.sqrt(2)),
        (init.normal(std=0.01), "relu", 0.1131),
        (init.normal(std=0.05), "identity", 0.8),
        (init.normal(std=1.0), "relu", 11.31),
        ("torch_default", "relu", 0.408),
    ],
)
def test_the_factor_per_layer_is_the_published_one(scheme, activation, factor):
    model = models.mlp([256] * 8, activation=activation, init=scheme, seed=0).to(DEVICE)
    found = by_layer(lab.predict(model, batch((64, 256))), "rms")
    kind = activation
    assert (found[f"{kind}6"] / found[f"{kind}1"]) ** (1 / 5) == pytest.approx(factor, rel=5e-3)  # weights are one draw


def dense_block(norm):
    first = {"norm": nn.BatchNorm1d(WIDTH)} if norm else {}
    branch = nn.Sequential(**first, act=nn.ReLU(), linear=nn.Linear(WIDTH, WIDTH, init=init.orthogonal(gain=2**0.5)))
    return nn.Residual(branch)


@pytest.mark.parametrize("norm", [False, True])
def test_residual_sums_grow_as_published(norm):
    """Without normalization 2^blocks; with it each branch adds ½·2 = 1, as long as inputs stay apart."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH, init="orthogonal"), *[dense_block(norm) for _ in range(8)], nn.ReLU())
    x = math.sqrt(WIDTH) * np.linalg.qr(batch((WIDTH, WIDTH), dtype=np.float64))[0]
    found = lab.predict(drawn(model.to("float64")), x).records
    grown = 2 * found[-1]["second_moment"]  # ReLU keeps half
    assert grown == pytest.approx(meanfield.residual_growth(8, norm=norm), rel=1e-4)


def test_batch_normalization_without_skips_lets_gradients_grow_by_its_constant():
    model = models.mlp([WIDTH] * 12, activation="relu", norm=True, init=init.orthogonal(), seed=0)
    x = batch((4096, WIDTH))
    prediction = lab.predict(model.to(DEVICE), x)
    assert by_layer(prediction, "chi")["linear5"] == pytest.approx(math.pi / (math.pi - 1), rel=2e-3)
    deltas = by_layer(prediction, "delta_rms")
    assert (deltas["linear4"] / deltas["linear5"]) ** 2 == pytest.approx(1.4669, rel=2e-3)


# ------------------------------------------------------------------------------------------- against the measurement


def compared(make, x, seeds=6, keys=("rms", "batch_std", "delta_rms")):
    """Per layer and key, ln(measured/predicted) over draws; δ relative to the last layer."""
    found = {}
    for seed in range(seeds):
        model = make(seed)
        prediction, report = lab.predict(model, x), lab.probe(model, x, labels(len(x)))
        assert [r["layer"] for r in prediction.records] == [r["layer"] for r in report.records]
        last = report.records[-1]["delta_rms"]
        for theory, measured in zip(prediction.records, report.records, strict=True):
            for key in keys:
                if theory[key]:
                    value = measured[key] / (last if key == "delta_rms" else 1)
                    found.setdefault((theory["layer"], key), []).append(math.log(value / theory[key]))
    return found


def assert_agreement(found, bias=0.015):
    """The mean over draws is 0 within 4 standard errors and ``bias``: what finite width may shift it by."""
    for (layer, key), ratios in found.items():
        error = np.std(ratios, ddof=1) / math.sqrt(len(ratios))
        assert abs(np.mean(ratios)) < 4 * error + bias, (layer, key, np.mean(ratios), error)


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "gelu", "selu"])
def test_dense_networks_do_what_theory_says(activation):
    def make(seed):
        return models.mlp([200, *[400] * 5, 10], activation=activation, seed=seed).to(DEVICE)

    assert_agreement(compared(make, batch((64, 200))))


def test_biases_and_means_of_inputs_count():
    def make(seed):
        layers = [nn.Linear(400, 400, init="he_normal", bias_init=init.normal(std=0.7)) for _ in range(4)]
        model = nn.Sequential(*[part for layer in layers for part in (layer, nn.Tanh())], nn.Linear(400, 10))
        return drawn(model, seed=seed)

    assert_agreement(compared(make, 0.5 + 2 * batch((64, 400))))


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_convolutions_do_what_theory_says_up_to_the_border(mode):
    def make(seed):
        layers, channels = [], 3
        for width, stride in ((64, 1), (128, 1), (64, 2), (96, 1)):
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1, padding_mode=mode), nn.ReLU()]
            channels = width
        return drawn(nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, 10)), seed=seed)

    x = batch((32, 3, 8, 8))
    x[..., 2:] *= 0.1  # brightest by the border
    assert_agreement(compared(make, x), bias=0.03)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("order", ["pre", "post"])
def test_residual_networks_do_what_theory_says(order, norm):
    def block(seed):
        parts = [nn.BatchNorm1d(300)] * norm + [nn.ReLU()] if order == "pre" else []
        parts += [nn.Linear(300, 300)] + ([nn.BatchNorm1d(300)] * norm if order == "post" else [])
        return nn.Residual(nn.Sequential(*parts), activation=None if order == "pre" else "relu")

    def make(seed):
        model = nn.Sequential(nn.Linear(100, 300), *[block(seed) for _ in range(5)], nn.Linear(300, 10))
        return drawn(model, seed=seed)

    assert_agreement(compared(make, batch((64, 100))), bias=0.03)


def test_weights_that_are_not_centred_drive_the_signal_by_their_mean():
    """|N(0, 2/n)| cut at 2σ multiplies a ReLU network by 0.7228 √(2n) per layer: 16.35 at 256."""

    def make(seed):
        scheme = init.get("as_written_kaiming", activation="relu")
        return models.mlp([256] * 6, activation="relu", init=scheme, seed=seed).to(DEVICE)

    x = np.abs(batch((64, 256)))
    model = make(0)
    found = by_layer(lab.predict(model, x), "rms")
    assert found["relu4"] / found["relu3"] == pytest.approx(16.35, rel=0.03)
    assert_agreement(compared(make, x, keys=("rms",)))
    first = {k: v for k, v in compared(make, x, keys=("std",)).items() if k[0] == "linear1"}  # how units differ
    assert_agreement(first)


def test_nine_draws_of_ten_lie_within_the_band():
    x, inside, draws = batch((32, 40)), [], 60
    for seed in range(draws):
        model = models.mlp([40] * 13, activation="relu", seed=seed).to(DEVICE)
        theory, measured = lab.predict(model, x).records, lab.probe(model, x, labels(32, 40)).records
        inside += [a["rms_low"] < b["rms"] < a["rms_high"] for a, b in zip(theory, measured, strict=True)][-3:]
    assert 0.8 < np.mean(inside) < 0.98


def test_the_first_loss_is_that_of_the_predicted_logits():
    x, differences = batch((64, 300)), []
    for seed in range(10):
        model = models.mlp([300, 400, 400, 100], activation="tanh", init=init.normal(std=0.08), seed=seed).to(DEVICE)
        differences.append(lab.probe(model, x, labels(64, 100)).loss - lab.predict(model, x).initial_loss)
    assert np.mean(differences) == pytest.approx(0, abs=4 * np.std(differences) / math.sqrt(10))
    assert lab.predict(model, x, y=x[:, :2]).initial_loss is None  # a regression


BETWEEN = {
    "dropout": lambda: nn.Dropout(0.4),
    "scale": lambda: nn.Scale(0.5, bias=0.3),
    "weight norm": lambda: nn.WeightNorm(nn.Linear(400, 400)),
    "branches": lambda: nn.Concat(nn.Sequential(nn.Linear(400, 300), nn.Tanh()), nn.Linear(400, 100)),
    "halves": lambda: nn.Sequential(nn.Linear(400, 200), nn.CReLU()),
    "batch norm": lambda: nn.BatchNorm1d(400),
    "identity": lambda: nn.Sequential(nn.Identity(), nn.Flatten()),
}


@pytest.mark.parametrize("kind", BETWEEN)
def test_every_kind_of_layer_between_two_others_is_followed(kind):
    def make(seed):
        model = nn.Sequential(nn.Linear(200, 400), nn.ReLU(), BETWEEN[kind](), nn.Linear(400, 400), nn.Linear(400, 10))
        return drawn(model, seed=seed)

    assert_agreement(compared(make, batch((64, 200)), seeds=5), bias=0.03)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.GlobalAvgPool2d()])
def test_pooling_of_images_of_noise_and_of_flat_ones(pool):
    """Neighbours that know nothing of each other, and neighbours that are equal."""

    def make(seed):
        tail = [pool, nn.Flatten()]
        places = 1 if isinstance(pool, nn.GlobalAvgPool2d) else 16
        model = nn.Sequential(nn.Conv2d(3, 200, 1), nn.ReLU(), *tail, nn.Linear(200 * places, 10))
        return drawn(model, seed=seed)

    noise, flat = batch((32, 3, 8, 8)), np.broadcast_to(batch((32, 3, 1, 1)), (32, 3, 8, 8)).copy()
    for x in (noise, flat):
        assert_agreement(compared(make, x, keys=("rms",)), bias=0.03)
    assert_agreement(compared(make, noise, keys=("delta_rms",)), bias=0.03)


# ------------------------------------------------------------------------------------------------- any network, any way

SMALL = {"lenet5": (1, 28, 28), "mlp": (1, 8, 8), "googlenet": (3, 17, 17), "alexnet": (3, 32, 32)}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", models.names())
def test_every_network_of_ours_is_followed_layer_by_layer(name, train):
    shape = SMALL.get(name, (3, 32, 32))
    model = models.build(name, in_shape=shape, num_classes=10).to(DEVICE).train(train)
    x = batch((4, *shape))
    prediction, report = lab.predict(model, x), lab.probe(model, x, labels(4))
    keys = ("layer", "kind", "shape")
    assert [[r[k] for k in keys] for r in prediction.records] == [[r[k] for k in keys] for r in report.records]
    assert all(math.isfinite(r["rms"]) and r["delta_rms"] > 0 for r in prediction.records)
    assert prediction.initial_loss > 2 and prediction.depth == sum(r["weight_std"] is not None for r in report.records)
    assert {r["dead"] is None for r in prediction.records if r["kind"] == "ReLU"} == {False}


@pytest.mark.parametrize("order", ["pre", "post"])
def test_both_orders_of_residual_blocks_are_followed(order):
    model = models.resnet20(order=order, in_shape=(3, 8, 8)).to(DEVICE)
    x = batch((8, 3, 8, 8))
    found = [r["layer"] for r in lab.predict(model, x).records]
    assert found == [r["layer"] for r in lab.probe(model, x, labels(8)).records]


def test_the_losses_of_auxiliary_classifiers_count_three_tenths():
    model = models.build("googlenet", in_shape=(3, 17, 17), num_classes=10).to(DEVICE)
    deltas = by_layer(lab.predict(model, batch((4, 3, 17, 17))), "delta_rms")
    assert [deltas[f"{part}.output"] for part in ("upper", "aux1", "aux2")] == pytest.approx([1, 0.3, 0.3])


class Own(nn.Module):
    """A student's network that hands on what its layers give."""

    def __init__(self, between=lambda x: x):
        self.flatten, self.first, self.act, self.last = nn.Flatten(), nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5)
        self.between = between

    def forward(self, x):
        return self.last(self.between(self.act(self.first(self.flatten(x)))))


def test_a_module_of_your_own_is_followed_where_it_only_hands_on():
    own = drawn(Own())
    same = nn.Sequential(flatten=own.flatten, first=own.first, act=own.act, last=own.last)
    x = batch((8, 20))
    assert lab.predict(own, x).records == lab.predict(same, x).records


@pytest.mark.parametrize("between", [lambda x: x * x, lambda x: x.tanh(), lambda x: x + x])
def test_a_module_of_your_own_that_computes_by_itself_is_named(between):
    model = nn.Sequential(nn.Identity(), drawn(Own(between)))
    with pytest.raises(ValueError, match=r"predict: 1 is a Own .*1\.last gets something that neither.*lab\.probe"):
        lab.predict(model, batch((8, 20)))


def test_a_layer_of_your_own_is_named():
    class Square(nn.Module):
        def forward(self, x):
            return x * x

    with pytest.raises(ValueError, match=r"predict: 1 is a Square, and it is not known"):
        lab.predict(drawn(nn.Sequential(nn.Linear(5, 5), Square())), batch((8, 5)))


def test_a_class_of_your_own_named_like_one_of_ours_is_not_mistaken_for_it():
    class Residual(nn.Module):
        def __init__(self):
            self.branch, self.shortcut = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x):
            return self.branch(x) * self.shortcut(x)

    with pytest.raises(ValueError, match="is a Residual"):
        lab.predict(drawn(Residual()), batch((8, 5)))


def test_a_signal_beyond_all_numbers_names_the_layer():
    model = models.mlp([64] * 200, activation="identity", init=init.normal(std=10.0), seed=0).to(DEVICE)
    with pytest.raises(ValueError, match=r"the second moment after linear\d+ is beyond 1e308"):
        lab.predict(model, batch((8, 64)))


def test_weights_that_are_all_zero_are_a_prediction_too():
    model = models.mlp([20, 30, 30, 10], activation="relu", init="zeros", seed=0).to(DEVICE)
    prediction = lab.predict(model, batch((8, 20)))
    assert prediction.records[-1]["rms"] == 0 and prediction.initial_loss == pytest.approx(math.log(10))
    assert prediction.chi == 0


def test_what_holds_for_the_whole_network():
    model = models.mlp([300, *[300] * 6, 10], activation="tanh", init="he_normal", seed=0)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            p.data = 0.3 * batch(p.shape, seed=len(name))
    prediction = lab.predict(model.to(DEVICE), batch((32, 300)))
    assert (prediction.depth, prediction.activation) == (7, "tanh")
    assert prediction.beta == pytest.approx(6 / 300)
    assert prediction.sigma_w == pytest.approx(math.sqrt(2), rel=0.01)
    assert prediction.sigma_b == pytest.approx(0.3, rel=0.06)
    scales = meanfield.depth_scales("tanh", prediction.sigma_w, prediction.sigma_b)
    assert (prediction.q_star, prediction.xi) == (scales.q_star, scales.xi_c)
    chis = [r["chi"] for r in prediction.records if r["chi"] is not None]
    assert prediction.chi == pytest.approx(math.prod(chis) ** (1 / 6)) and len(chis) == 6
    assert "7 weighted layers: χ = " in str(prediction)


def test_with_two_activations_or_schemes_there_is_no_one_place_in_the_phase_diagram():
    mixed = drawn(nn.Sequential(nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 5)))
    prediction = lab.predict(mixed, batch((8, 50)))
    assert prediction.activation is None and prediction.xi is None
    uneven = drawn(
        nn.Sequential(*[p for s in (1, 1, 3) for p in (nn.Linear(50, 50, init=init.normal(std=s)), nn.Tanh())])
    )
    assert lab.predict(nn.Sequential(uneven, nn.Linear(50, 5)).to(DEVICE), batch((8, 50))).sigma_w is None


def test_what_is_approximate_is_noted():
    model = models.build("resnet18", in_shape=(3, 32, 32), num_classes=10).to(DEVICE)
    notes = " ".join(lab.predict(model, batch((4, 3, 32, 32))).notes)
    assert "mean over places" in notes and "sums of activated signals" in notes
    assert lab.predict(models.mlp([20, 30, 5]).to(DEVICE), batch((4, 20))).notes == []


def test_nothing_of_the_model_is_changed():
    model = drawn(nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Dropout(0.5), nn.Linear(30, 5)))
    x = batch((8, 20))
    reference = drawn(
        nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Dropout(0.5), nn.Linear(30, 5))
    )
    before = model.state_dict()
    lab.predict(model, x)
    after = model.state_dict()
    assert all(np.array_equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in model.parameters()) and model[3].training
    np.testing.assert_array_equal(fetch(model(tensor(x))), fetch(reference(tensor(x))))  # the same masks


def test_one_input_has_nothing_to_be_compared_with():
    prediction = lab.predict(models.mlp([20, 30, 5]).to(DEVICE), batch((1, 20)))
    assert all(r["batch_std"] is None and r["correlation"] is None for r in prediction.records)


def test_in_evaluation_running_averages_that_have_seen_data_are_those_of_the_batch():
    def make(seed):
        model = drawn(nn.Sequential(nn.Linear(100, 400), nn.BatchNorm1d(400), nn.ReLU(), nn.Linear(400, 10)), seed=seed)
        model[1].momentum = 1.0
        model(tensor(x))
        return model.eval()

    x = batch((256, 100))
    assert_agreement(compared(make, x))
    fresh = drawn(nn.Sequential(nn.Linear(100, 400), nn.BatchNorm1d(400))).eval()  # running averages 0 and 1
    assert lab.predict(fresh, x).records[1]["variance_ratio"] == pytest.approx(1, abs=1e-4)
