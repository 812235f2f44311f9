"""The diagnosis as a whole: what is primary, the report as text and records, odd models, and runs that fail."""

import math

import numpy as np
import pytest
from conftest import DEVICE

from minidl import data, init, lab, models, nn, ops, optim, train
from minidl.lab.explain import Diagnosis, Finding
from minidl.text import plain, to_json


@pytest.fixture(scope="module")
def split():
    return data.load("digits", seed=0)


@pytest.fixture(scope="module")
def batch(split):
    return split.train[:64]


def made(rule, level):
    return Finding(rule, level, "cause", "", 1.0, None, "", "", "", "", (), "", "")


def diagnosis(*levels):
    return Diagnosis([made(f"R{i}", level) for i, level in enumerate(levels)], [], None)


@pytest.mark.parametrize(
    ("levels", "primary", "failed"),
    [
        (("ok", "ok"), None, False),
        (("ok", "info", "info"), "R1", False),
        (("info", "warn", "info", "warn"), "R1", False),
        (("warn", "info", "fail", "fail"), "R2", True),
        ((), None, False),
    ],
)
def test_primary_is_the_earliest_of_the_highest_level_and_only_a_fail_is_a_finding(levels, primary, failed):
    found = diagnosis(*levels)
    assert (found.primary.rule if found.primary else None, found.failed) == (primary, failed)


# --------------------------------------------------------------------------------------------------------- the report


def sick(batch):
    return lab.diagnose(models.mlp([64, *[40] * 10, 10], "sigmoid", "glorot_normal", seed=0), *batch)


def test_the_report_names_the_cause_first_then_evidence_source_fix_and_effect(batch):
    found = sick(batch)
    text = str(found)
    assert f"FINDING {found.primary.rule}: {found.primary.cause}" in text
    places = [text.index(word) for word in ("FINDING", "evidence", "measured", "source", "fix", "effect", "  fail  ")]
    assert places == sorted(places)
    assert found.primary.fix in text  # whole, to be copied
    for skipped in found.skipped:
        assert skipped["why"].split()[0] in text


def test_no_line_but_that_of_the_fix_is_wider_than_a_terminal(batch):
    for line in str(sick(batch)).splitlines():
        assert len(line) <= 100 or line.strip().startswith("fix"), line


def test_the_report_can_be_written_in_ascii(batch):
    assert "?" not in plain(str(sick(batch)))


def test_the_records_are_flat_and_become_strict_json(batch):
    records = sick(batch).records
    assert sum(r["primary"] for r in records) == 1
    for record in records:
        assert not any(isinstance(value, dict | list | tuple) for value in record.values())
    assert "NaN" not in to_json(records)


def test_rules_that_cannot_be_evaluated_are_listed_with_the_reason(batch):
    why = {s["rule"]: s["why"] for s in lab.diagnose(models.mlp([64, 30, 30, 10], "tanh", seed=0), *batch).skipped}
    assert why["U1"] == "no optimizer was given"
    assert why["L2"] == "no history was given"
    assert "Sigmoid" in why["A2"] and "ReLU" in why["A4"]


def test_the_figure_is_the_ladder_with_the_verdict(batch):
    found = sick(batch)
    texts = " ".join(t.get_text().replace("\n", " ") for t in found.plot(ax=None).texts)
    assert found.primary.rule in texts


# ------------------------------------------------------------------------------------------------------- odd networks


class Own(nn.Module):
    """A student's network with functions in forward(), a scalar parameter and a shared layer."""

    def __init__(self):
        self.first = nn.Linear(64, 32)
        self.again = nn.Linear(32, 32)
        self.scale = nn.Parameter(np.ones(1, "float32"))
        self.last = nn.Linear(32, 10)

    def forward(self, x):
        h = self.first(ops.flatten(x)).tanh()
        for _ in range(3):
            h = h + self.scale * self.again(h).tanh()
        return self.last(h)


def test_a_network_that_theory_cannot_follow_is_judged_by_absolute_limits_and_the_report_says_so(batch):
    found = lab.diagnose(Own().to(DEVICE), *batch)
    assert found.prediction is None
    assert "absolute limits" in str(found)
    assert {f.rule for f in found.findings} >= {"D1", "W1", "S1", "F1", "F3", "B1", "L1"}


def test_a_network_of_one_layer_is_diagnosed(batch):
    assert not lab.diagnose(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), *batch).failed


def test_targets_that_are_no_class_numbers_leave_the_rules_of_cross_entropy_out(batch):
    x, _ = batch
    y = np.linspace(-1, 1, len(x), dtype=np.float32)[:, None]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.Tanh(), nn.Linear(30, 1))
    found = lab.diagnose(model, x, y, loss=ops.mse)
    assert {s["rule"] for s in found.skipped} >= {"L1", "L2"}


def test_a_network_without_weights_is_refused(batch):
    with pytest.raises(ValueError, match="nothing to diagnose"):
        lab.diagnose(nn.Sequential(nn.Flatten(), nn.Tanh()), *batch)


def test_weights_that_are_not_finite_are_a_finding(batch):
    model = models.mlp([64, 30, 30, 10], seed=0)
    model.linear2.weight.data = model.linear2.weight.data * np.float32(np.inf)
    found = lab.diagnose(model, *batch)
    assert found.failed
    f2 = next(f for f in found.findings if f.rule == "F2")
    assert (f2.level, f2.layer) == ("fail", "linear2") and "weights that are NaN" in f2.cause
    assert "linear2 has weights that are not finite" in str(found).replace("\n             ", " ")


def test_a_module_with_a_matrix_and_layers_of_its_own_is_diagnosed_and_what_no_rule_sees_is_named(batch):
    class Mixed(nn.Module):
        def __init__(self):
            self.weight = nn.Parameter(np.eye(64, 32, dtype="float32"))
            self.mixing = nn.Parameter(np.eye(32, dtype="float32"))
            self.last = nn.Linear(32, 10)

        def forward(self, x):
            return self.last(ops.flatten(x) @ self.weight @ self.mixing)

    found = lab.diagnose(Mixed().to(DEVICE), *batch)
    assert [w.layer for w in found.evidence.weights] == ["last"]
    assert "not seen   weight, mixing:" in str(found)


def test_a_layer_of_a_students_own_without_fans_is_measured_like_any_other(batch):
    class Dense(nn.Module):
        def __init__(self, inputs, outputs):
            draw = np.random.default_rng(0).standard_normal((inputs, outputs)) / math.sqrt(inputs)
            self.weight = nn.Parameter(draw.astype("float32"))

        def forward(self, x):
            return ops.flatten(x) @ self.weight

    model = nn.Sequential(Dense(64, 32), nn.Tanh(), Dense(32, 32), nn.Tanh(), nn.Linear(32, 10)).to(DEVICE)
    found = lab.diagnose(model, *batch)
    assert [w.layer for w in found.evidence.weights] == ["0", "2", "4"]
    assert all(w.record["weight_grad_rms"] > 0 for w in found.evidence.weights)
    assert len(found.report.ladder("rms")) == 2
    assert {f.rule for f in found.findings} >= {"B1", "B2", "J1"} and not found.failed


def test_a_network_that_takes_one_size_of_batch_alone_is_diagnosed(batch):
    class Fixed(nn.Module):
        def __init__(self):
            self.first, self.second, self.last = nn.Linear(64, 30), nn.Linear(30, 30), nn.Linear(30, 10)

        def forward(self, x):
            return self.last(self.second(self.first(x.reshape((64, 64))).relu()).relu())

    model = Fixed().to(DEVICE)
    init.apply(model, seed=0)
    found = lab.diagnose(model, *batch)
    assert not found.failed
    assert {"F4", "F5", "J1"} <= {s["rule"] for s in found.skipped}


def test_the_fix_of_a_network_that_is_one_layer_works_as_it_is_written(batch):
    x, y = batch
    model = nn.Linear(64, 10).to(DEVICE)
    model.weight.data = model.weight.data * np.float32(30)
    rows = np.ascontiguousarray(x.reshape(len(x), -1))
    found = lab.diagnose(model, rows, y)
    fix = next(f.fix for f in found.findings if f.rule == "L1")
    exec(fix, {"model": model, "init": init})
    assert lab.diagnose(model, rows, y).report.loss == pytest.approx(math.log(10))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model": lambda x: x}, TypeError, "must be an nn.Module; got function"),
        ({"optimizer": lambda p: optim.SGD(p, lr=0.1)}, TypeError, r"optim.SGD\(model.parameters.*got a function"),
        ({"loss": lambda output, y: 3.0}, TypeError, "loss of the output is a float, not a Tensor"),
        ({"y": np.full((64, 10), np.nan, "float32"), "loss": ops.mse}, ValueError, "NaN or infinite .* labels"),
    ],
)
def test_what_cannot_be_diagnosed_is_named_with_what_to_pass(change, error, said, batch):
    given = {"model": models.mlp([64, 30, 10], seed=0).to(DEVICE), "x": batch[0], "y": batch[1], **change}
    with pytest.raises(error, match=said):
        lab.diagnose(given.pop("model"), given.pop("x"), given.pop("y"), **given)


@pytest.mark.parametrize("norm", [False, True])
def test_activations_are_replaced_wherever_they_sit(norm, batch):
    model = nn.Sequential(nn.Flatten(), nn.Residual(nn.Sequential(nn.Linear(64, 64), nn.Sigmoid())), nn.Linear(64, 10))
    model.extra = [nn.ReLU(), nn.Linear(2, 2)]
    lab.replace_activations(model, "tanh")
    kinds = [type(m).__name__ for _, m in model.named_modules()]
    assert kinds.count("Tanh") == 2 and not {"Sigmoid", "ReLU"} & set(kinds)
    with pytest.raises(ValueError, match="no layer that is an activation"):
        lab.replace_activations(nn.Linear(2, 2), "tanh")


# ------------------------------------------------------------------------------------------------------ runs that fail


def fitted(split, model, lr, quiet=False):
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return train.fit(model, split, optimizer=optimizer, epochs=1, quiet=quiet)


def test_a_run_that_diverges_carries_the_diagnosis_of_its_start(split):
    model = models.mlp([64, *[50] * 4, 10], seed=0).to(DEVICE)
    with np.errstate(all="ignore"), pytest.raises(train.Diverged) as end:
        fitted(split, model, lr=1e4)
    found = end.value.diagnosis
    assert found.primary.rule == "U1"  # and not the weights that the rate has spoiled by then
    assert "too high" in found.primary.cause
    assert any("FINDING U1" in note for note in end.value.__notes__)


def test_a_run_whose_loss_never_left_its_start_says_why(split, capsys):
    model = models.mlp([64, *[50] * 8, 10], "sigmoid", seed=0).to(DEVICE)
    history = fitted(split, model, lr=0.01)
    assert history.diagnosis.primary.rule == "F3"
    assert "never left its start" in capsys.readouterr().err


def test_a_run_that_diverges_is_reported_also_where_the_diagnosis_itself_fails(split):
    class Counted(nn.Module):
        def __init__(self):
            self.inner = models.mlp([64, 30, 10], seed=0)

        def forward(self, x):
            if len(x) != 64:
                raise KeyError("only batches of 64")
            return self.inner(x)

    model = Counted().to(DEVICE)
    with np.errstate(all="ignore"), pytest.raises(train.Diverged) as end:
        optimizer = optim.SGD(model.parameters(), lr=1e30)
        train.fit(model, split, optimizer=optimizer, epochs=1, batch_size=64, drop_last=True)
    assert end.value.diagnosis is None


def test_a_run_that_learns_says_nothing(split, capsys):
    history = fitted(split, models.mlp([64, 50, 50, 10], seed=0).to(DEVICE), lr=0.05)
    assert history.diagnosis is None
    assert capsys.readouterr().err == ""


def test_a_quiet_run_is_not_diagnosed(split, capsys):
    history = fitted(split, models.mlp([64, *[50] * 8, 10], "sigmoid", seed=0).to(DEVICE), lr=0.01, quiet=True)
    assert history.diagnosis is None
    assert capsys.readouterr().err == ""


def test_the_diagnosis_of_a_failed_run_leaves_weights_and_rate_as_they_are(split):
    noisy, quiet = (models.mlp([64, *[30] * 8, 10], "sigmoid", seed=0).to(DEVICE) for _ in range(2))
    fitted(split, noisy, lr=0.01)
    fitted(split, quiet, lr=0.01, quiet=True)
    for path, array in noisy.state_dict().items():
        np.testing.assert_array_equal(array, quiet.state_dict()[path], err_msg=path)


def test_a_history_that_ends_above_the_entropy_is_a_finding_and_one_below_is_none(batch):
    model = models.mlp([64, 50, 50, 10], seed=0)
    flat = [{"train_loss": math.log(10), "train_accuracy": 0.1}]
    assert lab.diagnose(model, *batch, history=flat).primary.rule == "L2"
    assert not lab.diagnose(model, *batch, history=[{"train_loss": 1.9}]).failed
    slow_start = [{"train_loss": 2.5, "train_accuracy": 0.5}]  # the mean over an epoch that began high
    assert not lab.diagnose(model, *batch, history=slow_start).failed
