"""Every rule of the diagnosis: a bug that makes it fire, whom it blames, healthy networks it leaves alone, its fix."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import DEVICE

from minidl import data, init, lab, models, nn, optim
from minidl.lab.rules import GROUPS, LEVELS, all_rules

DOCS = Path(__file__).resolve().parent.parent / "docs"
RULES = {rule.id: rule for rule in all_rules()}
IDS = "D1 W1 W2 W3 S1 G1 F1 F2 F3 F4 F5 A1 A2 A3 A4 A5 B1 B2 B3 B4 B5 L1 L2 T1 U1 R1 N1 J1 V1".split()


def load_pairs():
    spec = importlib.util.spec_from_file_location("pairs", DOCS / "diagnosis" / "pairs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pairs = load_pairs()


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", seed=0).train[:128]


def finding(diagnosis, rule):
    found = [f for f in diagnosis.findings if f.rule == rule]
    assert len(found) == 1, f"{rule} was not evaluated: {diagnosis.skipped}"
    return found[0]


def level(diagnosis, rule):
    """0 to 3; 0 too for a rule that has nothing to judge, such as saturated sigmoids where there are none."""
    return max((LEVELS.index(f.level) for f in diagnosis.findings if f.rule == rule), default=0)


def test_all_rules_are_there_in_the_order_of_the_report():
    assert sorted(RULES) == sorted(IDS)
    order = [GROUPS.index(rule.group) for rule in all_rules()]
    assert order == sorted(order)


def test_a_rule_is_explained_by_earlier_rules_alone():
    order = list(RULES)
    for rule in RULES.values():
        for earlier in rule.explained_by:
            assert order.index(earlier) < order.index(rule.id), f"{rule.id} cannot follow from {earlier}"


def test_there_is_a_planted_bug_for_every_rule():
    assert set(pairs.PLANTED) == set(RULES)


@pytest.mark.parametrize("rule", IDS)
def test_the_bug_planted_for_a_rule_makes_it_fire_and_is_blamed_on_it_or_on_an_earlier_one(rule):
    found = pairs.diagnosis(rule)
    assert level(found, rule) > 0
    assert found.primary.rule == rule or found.primary.rule in RULES[rule].explained_by


def test_the_page_has_the_tables_that_the_rules_and_the_planted_bugs_give():
    page = pairs.PAGE.read_text(encoding="utf-8")
    assert pairs.with_tables(page) == page, "run: python docs/diagnosis/pairs.py"


# ------------------------------------------------------------------------------------ healthy networks: no finding

HEALTHY = [
    ("relu", "he_normal"),
    ("relu", "he_uniform"),
    ("relu", "he_truncated_normal"),
    ("leaky_relu", "he_normal"),
    ("tanh", "glorot_normal"),
    ("tanh", "orthogonal"),
    ("erf", "glorot_uniform"),
    ("selu", "lecun_normal"),
    ("elu", "he_normal"),
]


@pytest.mark.parametrize("depth", [3, 10, 30])
@pytest.mark.parametrize(("activation", "scheme"), HEALTHY)
def test_an_mlp_with_its_scheme_gives_no_finding(activation, scheme, depth, digits):
    model = models.mlp([64, *[128] * depth, 10], activation, scheme, seed=depth)
    found = lab.diagnose(model, *digits)
    assert not found.failed, found


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu"])
def test_a_normalized_mlp_gives_no_finding(activation, digits):
    model = models.mlp([64, *[64] * 12, 10], activation, norm=True, seed=2)
    assert not lab.diagnose(model, *digits).failed


@pytest.mark.parametrize(("name", "norm"), [("lenet5", False), ("resnet20", True), ("vgg11", True)])
def test_a_convolutional_network_gives_no_finding(name, norm):
    x, y = data.load("shapes", seed=0).train[:32]
    options = {"norm": norm, "in_shape": x.shape[1:], "num_classes": 9, "seed": 3}
    assert not lab.diagnose(models.build(name, **options), x, y).failed


@pytest.mark.parametrize("cure", [init.fixup, init.skipinit, init.rezero, init.zero_gamma])
def test_a_residual_network_that_starts_as_its_shortcuts_gives_no_finding(cure):
    x, y = data.load("shapes", seed=0).train[:32]
    norm = cure is init.zero_gamma
    model = models.resnet20(norm=norm, scale=not norm, in_shape=x.shape[1:], num_classes=9, seed=3)
    cure(model)
    found = lab.diagnose(model, x, y)
    assert not found.failed, found


class Gated(nn.Module):
    """A student's block: a branch behind a gate that is closed at first, beside a way past it."""

    def __init__(self, width):
        self.linear = nn.Linear(width, width, init="he_normal")
        self.gate = nn.Parameter(np.zeros(1, "float32"))

    def forward(self, x):
        return x + self.gate * self.linear(x).tanh()


def test_branches_of_a_students_own_that_are_closed_at_first_are_no_finding(digits):
    blocks = [Gated(64) for _ in range(3)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), *blocks, nn.Linear(64, 10)).to(DEVICE)
    init.apply(model, seed=0)
    found = lab.diagnose(model, *digits)
    assert not found.failed
    assert finding(found, "B5").level == "info" and finding(found, "B5").layer == "2.linear"


def test_one_input_gives_no_finding(digits):
    x, y = digits
    found = lab.diagnose(models.mlp([64, *[64] * 5, 10], "relu", "he_normal", seed=0).to(DEVICE), x[:1], y[:1])
    assert not found.failed
    assert "F3" in {s["rule"] for s in found.skipped}


def test_a_network_whose_weights_are_all_frozen_is_a_finding_and_one_that_is_frozen_below_is_none(digits):
    model = models.mlp([64, 64, 64, 10], seed=0).to(DEVICE)
    for layer in (model.linear1, model.linear2):
        layer.weight.requires_grad = False
    assert not lab.diagnose(model, *digits).failed
    model.output.weight.requires_grad = False
    found = lab.diagnose(model, *digits)
    assert found.primary.rule == "B5" and found.primary.cause == "every layer is frozen"
    exec(found.primary.fix, {"model": model})
    assert not lab.diagnose(model, *digits).failed


@pytest.mark.parametrize(("cut_at", "level"), [(1, "warn"), (2, "fail")])
def test_layers_that_the_loss_does_not_depend_on_are_named_and_none_that_does_is_a_finding(cut_at, level, digits):
    class Cut(nn.Module):
        def __init__(self):
            self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)
            self.bias = nn.Parameter(np.zeros(10, "float32"))

        def forward(self, x):
            h = self.first(x).relu()
            h = self.last(h.detach() if cut_at == 1 else h)
            return (h.detach() if cut_at == 2 else h) + self.bias

    model = nn.Sequential(nn.Flatten(), Cut()).to(DEVICE)
    init.apply(model, seed=0)
    b5 = finding(lab.diagnose(model, *digits), "B5")
    assert (b5.level, b5.layer) == (level, "1.first")
    assert "1.first" in b5.evidence and ("1.last" in b5.evidence) == (cut_at == 2)


def test_where_the_right_scheme_is_in_place_it_is_not_what_mends_the_size_of_the_signal(digits):
    model = models.mlp([64, *[6] * 18, 10], "relu", init.he_normal(), seed=1).to(DEVICE)
    by_chance = finding(lab.diagnose(model, *digits), "F1")  # so narrow that no draw is typical
    assert by_chance.level == "warn" and by_chance.fix == "init.lsuv(model, x)"
    exec(by_chance.fix, {"model": model, "init": init, "x": digits[0]})
    assert finding(lab.diagnose(model, *digits), "F1").level == "ok"
    init.apply(model, init.normal(std=0.1), seed=0)
    assert "init.he_normal" in finding(lab.diagnose(model, *digits), "F1").fix


def test_a_deep_softplus_network_gets_a_centred_activation_and_a_shallow_one_its_scheme(digits):
    for depth, line in ((12, "replace_activations"), (3, "variance_scaling")):
        model = models.mlp([64, *[64] * depth, 10], "softplus", init.zeros(), seed=0).to(DEVICE)
        found = lab.diagnose(model, *digits)
        assert line in found.primary.fix
        exec(found.primary.fix, {"model": model, "init": init, "lab": lab})
        assert not lab.diagnose(model, *digits).failed


def test_an_output_layer_of_zeros_gives_no_finding(digits):
    model = models.mlp([64, *[64] * 4, 10], seed=1)
    model.output.weight.data = np.zeros_like(model.output.weight.data)
    found = lab.diagnose(model, *digits)
    assert not found.failed, found
    assert finding(found, "B5").level == "info"


def test_a_loss_of_three_is_no_finding(digits):
    found = lab.diagnose(models.mlp([64, *[100] * 5, 10], seed=0), *digits)
    assert 2.6 < found.report.loss < 4
    assert finding(found, "L1").level in ("info", "warn")
    assert not found.failed


def test_a_trained_network_gives_no_finding_and_its_spread_is_not_judged():
    split = data.load("digits", seed=0)
    model = models.mlp([64, 64, 64, 10], seed=0)
    from minidl import train

    history = train.fit(model, split, optimizer=optim.Adam(model.parameters(), lr=1e-3), epochs=3, quiet=True)
    found = lab.diagnose(model, *split.train[:128], history=history)
    assert not found.failed, found
    assert {s["rule"] for s in found.skipped} >= {"W1", "L1"}


# --------------------------------------------------------------------------- what is measured, by an independent truth


def test_the_change_of_the_signal_is_depth_times_the_log_of_the_factor_of_theory(digits):
    """Glorot and ReLU: every square layer halves E h²."""
    model = models.mlp([64, *[256] * 16, 10], "relu", "glorot_normal", seed=0)
    f1 = finding(lab.diagnose(model, *digits), "F1")
    first = math.log(2 * 64 / (64 + 256) / 2)  # n Var w / 2 of the layer from 64 to 256 units
    theory = 15 * math.log(2) - first
    assert f1.measured == pytest.approx(theory, abs=3 * math.sqrt(5 * 16 / 256))  # of one draw, see lab.predict
    assert f1.level == "warn"
    assert f1.expected == pytest.approx(theory, rel=0.05)


def test_the_rule_of_spread_names_the_slip_in_a_convolution_with_odd_fans():
    x, y = data.load("shapes", seed=0).train[:16]
    model = nn.Sequential(nn.Conv2d(1, 24, 5), nn.ReLU(), nn.Conv2d(24, 40, 3), nn.GlobalAvgPool2d(), nn.Linear(40, 9))
    init.apply(model, seed=0)
    model[2].weight.data = model[2].weight.data * np.float32(3)  # √9: the kernel was not counted
    w1 = finding(lab.diagnose(model, x, y), "W1")
    assert (w1.level, w1.layer) == ("fail", "2")
    assert "kernel forgotten" in w1.cause


def test_slips_that_give_nearly_the_same_ratio_are_all_named(digits):
    model = nn.Sequential(nn.Conv2d(3, 28, 3, init="he_normal"), nn.ReLU(), nn.Flatten(), nn.Linear(28 * 36, 10))
    init.apply(model.to(DEVICE), seed=1)
    weight = model[0].weight  # fans 27 and 252: a fan_out where fan_in is meant is ×0.327, a mean of both ×0.311
    weight.data = weight.data * np.float32((27 / 252) ** 0.5)
    x = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype("float32")
    cause = finding(lab.diagnose(model, x, np.arange(64) % 10), "W1").cause
    assert "fan_out for fan_in" in cause and " or " in cause


def test_a_spread_that_no_slip_gives_is_a_remark(digits):
    model = models.mlp([64, *[90] * 3, 10], seed=0)
    model.linear2.weight.data = model.linear2.weight.data * np.float32(1.31)
    assert finding(lab.diagnose(model, *digits), "W1").level == "info"


def test_one_layer_with_a_mean_is_a_warning_only(digits):
    model = models.mlp([64, *[100] * 4, 10], "tanh", seed=0)
    model.linear3.weight.data = model.linear3.weight.data + np.float32(0.1)
    w2 = finding(lab.diagnose(model, *digits), "W2")
    assert (w2.level, w2.layer) == ("warn", "linear3")


def test_units_that_are_copies_are_counted(digits):
    model = models.mlp([64, 40, 40, 10], "tanh", seed=0)
    for name in ("linear1", "linear2"):
        w = np.array(getattr(model, name).weight.data)
        if name == "linear1":
            w[:10] = w[0]
        else:
            w[:, :10] = w[:, :1]  # what follows does not tell them apart
        getattr(model, name).weight.data = w
    s1 = finding(lab.diagnose(model, *digits), "S1")
    assert (s1.level, s1.layer) == ("warn", "linear1")
    assert s1.measured == pytest.approx(10 / 40)


def test_copies_that_what_follows_tells_apart_are_not_locked(digits):
    model = models.mlp([64, 40, 40, 10], "tanh", seed=0)
    w = np.array(model.linear1.weight.data)
    w[:10] = w[0]
    model.linear1.weight.data = w
    assert finding(lab.diagnose(model, *digits), "S1").level == "ok"


def test_the_size_of_an_update_is_that_of_one_step(digits):
    x, y = digits
    model = models.mlp([64, 50, 10], seed=0)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    measured = finding(lab.diagnose(model, x, y, optimizer=optimizer), "U1").measured
    from minidl import Tensor, ops

    before = [p.data.copy() for p in model.parameters()]
    ops.cross_entropy(model(Tensor(x)), y).backward()
    optimizer.step()
    ratios = [
        np.sqrt(np.mean((p.data - old) ** 2) / np.mean(old**2))
        for p, old in zip(model.parameters(), before, strict=True)
        if p.ndim == 2
    ]
    assert measured == pytest.approx(np.median(ratios), rel=1e-4)


def test_a_diagnosis_changes_nothing(digits):
    model = models.mlp([64, 30, 30, 10], norm=True, seed=0).to(DEVICE)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    before = model.state_dict()
    lab.diagnose(model, *digits, optimizer=optimizer)
    for path, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[path], err_msg=path)
    assert all(p.grad is None for p in model.parameters())
    assert optimizer.state == [{} for _ in optimizer.members()]
    assert not any(vars(m).get("_forward_hooks") for _, m in model.named_modules())


# ------------------------------------------------------------------------------------ the fix, as it would be pasted

FIXED = "D1 W1 W2 W3 S1 G1 F1 F2 F3 F4 F5 A1 A2 A3 A4 A5 B1 B4 B5 L1 U1 R1".split()


@pytest.mark.parametrize("rule", FIXED)
def test_the_fix_works_as_it_is_written_and_the_level_improves(rule):
    """The line of the rule itself, and that of the primary cause."""
    for which in ("own", "primary"):
        model, x, y, options = pairs.PLANTED[rule][1]()
        before = lab.diagnose(model, x, y, **options)
        fix = finding(before, rule).fix if which == "own" else before.primary.fix
        scope = {"model": model, "x": x, "y": y, "init": init, "lab": lab, "nn": nn, "optim": optim, **options}
        exec(fix, scope)
        after = lab.diagnose(scope["model"], scope["x"], scope["y"], **options)
        assert level(after, rule) < level(before, rule), f"{fix}\n{after}"


@pytest.mark.parametrize("rule", IDS)
def test_a_finding_says_what_to_do_on_one_line_that_python_can_read(rule):
    for found in pairs.diagnosis(rule).findings:
        if found.level == "fail":
            assert found.cause and found.source and found.evidence and found.fix and found.effect, found
            assert "\n" not in found.fix
            compile(found.fix, "fix", "exec")
