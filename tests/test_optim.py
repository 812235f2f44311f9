"""Optimizers against their formulas written out in NumPy, schedules against closed forms, clipping, messages."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import nn, optim
from minidl.lab.law import _value

Reference = Callable[..., Iterator[np.ndarray]]


def parameter(values: Any, grad: Any = None) -> nn.Parameter:
    p = nn.Parameter(tensor(np.array(values, "float64")).data)
    p.grad = None if grad is None else tensor(np.array(grad, "float64")).data
    return p


GRADS = np.random.default_rng(0).normal(size=(6, 4)) * [1, 10, 0.1, 1e-3]
START = np.array([1.0, -2.0, 0.5, 3.0])


# ------------------------------------------------------------------------ the formulas, each in a few lines of NumPy


def sgd(lr: float, momentum: float = 0, nesterov: bool = False, weight_decay: float = 0) -> Iterator[np.ndarray]:
    w, v = START.copy(), np.zeros(4)
    for g in GRADS:
        g = g + weight_decay * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v if nesterov else v)
        yield w


def adam(
    lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, l2: float = 0, decay: float = 0
) -> Iterator[np.ndarray]:
    w = START.copy()
    past = []
    for g in GRADS:
        past.append(g + l2 * w)
        weights = [[b ** (len(past) - 1 - i) for i in range(len(past))] for b in betas]
        mean = sum(c * g for c, g in zip(weights[0], past, strict=True)) / sum(weights[0])
        square = sum(c * g**2 for c, g in zip(weights[1], past, strict=True)) / sum(weights[1])
        w = w * (1 - lr * decay) - lr * mean / (np.sqrt(square) + eps)
        yield w


CASES: dict[str, tuple[Callable[[list[Any]], optim.Optimizer], Iterator[np.ndarray]]] = {
    "SGD": (lambda ps: optim.SGD(ps, 0.1), sgd(0.1)),
    "SGD, momentum": (lambda ps: optim.SGD(ps, 0.1, momentum=0.9), sgd(0.1, 0.9)),
    "SGD, Nesterov": (lambda ps: optim.SGD(ps, 0.1, momentum=0.9, nesterov=True), sgd(0.1, 0.9, True)),
    "SGD, weight decay": (
        lambda ps: optim.SGD(ps, 0.1, momentum=0.5, weight_decay=0.2),
        sgd(0.1, 0.5, False, 0.2),
    ),
    "Adam": (lambda ps: optim.Adam(ps, 0.1), adam(0.1)),
    "Adam, other settings": (
        lambda ps: optim.Adam(ps, 0.1, betas=(0.5, 0.9), eps=0.1, weight_decay=0.2),
        adam(0.1, (0.5, 0.9), 0.1, l2=0.2),
    ),
    "AdamW": (lambda ps: optim.AdamW(ps, 0.1), adam(0.1, decay=0.01)),
    "AdamW, more decay": (lambda ps: optim.AdamW(ps, 0.1, weight_decay=0.5), adam(0.1, decay=0.5)),
}

KINDS: list[Any] = [
    kind
    for kind in vars(optim).values()
    if isinstance(kind, type) and issubclass(kind, optim.Optimizer) and kind is not optim.Optimizer
]
SIGNS = {"alpha": "α", "beta": "β", "gamma": "γ", "weight_decay": "λ"}


def as_written(kind: Any, lr: float) -> Iterator[np.ndarray]:
    """What an optimizer's docstring says, one ``name ← expression`` after the other; what is remembered starts at 0."""
    rules = re.findall(r"``(\w+) ← (.+?)``", " ".join(kind.__doc__.split()))
    settings = {SIGNS.get(name, name): value for name, value in kind([parameter(START)], lr=lr).groups[0].items()}
    numbers = [{**settings, **{name: 0.0 for name, _ in rules}, "p": p} for p in START]
    for gradient in GRADS:
        for number, g in zip(numbers, gradient, strict=True):
            number["g"] = g
            for name, expression in rules:
                number[name] = _value(expression, number)
                assert number[name] is not None, f"{expression!r} cannot be read; give {kind.__name__} a case in CASES"
        yield np.array([number["p"] for number in numbers])


# An optimizer without a case is held to the formula of its docstring: adding one takes no line here.
CASES |= {
    kind.__name__: (lambda params, kind=kind: kind(params, lr=0.1), as_written(kind, 0.1))  # type: ignore[misc]
    for kind in KINDS
    if kind.__name__ not in CASES
}


@pytest.mark.host("reads a docstring")
def test_the_formula_of_a_docstring_is_read_as_it_is_written_here():
    for read, here in zip(as_written(optim.SGD, 0.1), sgd(0.1), strict=True):
        assert np.allclose(read, here, rtol=1e-14, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_an_optimizer_follows_its_formula(case):
    make, reference = CASES[case]
    p = parameter(START)
    optimizer = make([p])
    for g, expected in zip(GRADS, reference, strict=True):
        p.grad = tensor(g).data
        optimizer.step()
        assert np.allclose(fetch(p), expected, rtol=1e-12, atol=0)


OPTIMIZERS: dict[str, Callable[[list[Any]], optim.Optimizer]] = {name: make for name, (make, _) in CASES.items()}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_a_step_leaves_gradients_and_a_parameter_without_one_as_they_are(case):
    p, idle = parameter(START, GRADS[0]), parameter([5.0])
    optimizer = OPTIMIZERS[case]([p, idle])
    for _ in range(2):
        optimizer.step()
    assert np.array_equal(fetch(p.grad), GRADS[0]) and np.array_equal(fetch(idle), [5])


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_a_parameter_keeps_its_precision(case):
    p = nn.Parameter(tensor(np.ones(3, "float32")).data)
    optimizer = OPTIMIZERS[case]([p])
    for _ in range(2):
        p.grad = tensor(np.ones(3, "float32")).data
        optimizer.step()
    assert p.dtype == np.float32
    assert all(
        v.dtype == np.float32 for s in optimizer.state_dict()["state"] for v in s.values() if hasattr(v, "dtype")
    )


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_a_parameter_without_axes_is_trained_too(case):
    p = parameter(2.0)
    optimizer = OPTIMIZERS[case]([p])
    for _ in range(3):
        optimizer.zero_grad()
        (p * p).backward()
        optimizer.step()
    assert p.shape == () and float(fetch(p)) < 2


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_an_optimizer_goes_down_a_quadratic(case):
    """``Σ c p²/2`` with curvatures c from 0.5 to 4: after 200 steps less than a hundredth is left."""
    p, c = parameter(START), tensor(np.array([0.5, 1.0, 2.0, 4.0]))
    optimizer, start = OPTIMIZERS[case]([p]), float(fetch((c * p * p).sum()))
    for _ in range(200):
        optimizer.zero_grad()
        (c * p * p / 2).sum().backward()
        optimizer.step()
    assert float(fetch((c * p * p).sum())) < 0.01 * start


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_a_restored_optimizer_continues_bit_for_bit(case):
    make = OPTIMIZERS[case]
    p = parameter(START)
    optimizer = make([p])
    for i, g in enumerate(GRADS):
        if i == 3:
            saved, halfway = copy.deepcopy(optimizer.state_dict()), fetch(p).copy()
        p.grad = tensor(g).data
        optimizer.step()
    q = parameter(halfway)
    restored = make([q])
    restored.load_state_dict(saved)
    for g in GRADS[3:]:
        q.grad = tensor(g).data
        restored.step()
    assert np.array_equal(fetch(p), fetch(q))


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_a_saved_state_is_a_copy(case):
    p = parameter(START, GRADS[0])
    optimizer = OPTIMIZERS[case]([p])
    optimizer.step()
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    optimizer.step()
    for entries, old in zip(saved["state"], before["state"], strict=True):
        assert all(np.array_equal(entries[k], old[k]) for k in old)
    optimizer.load_state_dict(saved)
    optimizer.step()  # and loading copies too
    assert all(np.array_equal(saved["state"][0][k], v) for k, v in before["state"][0].items())


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_a_snapshot_can_be_gone_back_to_more_than_once(case):
    p = parameter(START, GRADS[0])
    optimizer = OPTIMIZERS[case]([p])
    optimizer.step()
    snapshot, weights, results = optimizer.snapshot(), fetch(p).copy(), []
    for _ in range(2):
        optimizer.restore(snapshot)
        p.data = tensor(weights.copy()).data
        for _ in range(3):
            optimizer.step()
        results.append(fetch(p).copy())
    assert np.array_equal(*results)


def test_settings_and_the_schedules_factor_are_saved():
    optimizer = optim.SGD([parameter(START)], lr=0.1, momentum=0.9)
    optimizer.lr_factor = 0.25
    other = optim.SGD([parameter(START)], lr=7.0)
    other.load_state_dict(optimizer.state_dict())
    assert (other.groups[0]["lr"], other.groups[0]["momentum"], other.lr_factor) == (0.1, 0.9, 0.25)


# ---------------------------------------------------------------------------------------------------------- groups


def test_a_group_has_settings_of_its_own_and_takes_the_others_from_the_arguments():
    a, b = parameter([1.0], [1.0]), parameter([1.0], [1.0])
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5, "weight_decay": 2.0}], lr=0.1)
    optimizer.step()
    assert np.allclose(fetch(a), [0.9]) and np.allclose(fetch(b), [1 - 0.5 * 3])


def test_the_schedules_factor_multiplies_every_groups_rate():
    a, b = parameter([1.0], [1.0]), parameter([1.0], [1.0])
    optimizer = optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.1)
    optimizer.lr_factor = 0.1
    optimizer.step()
    assert np.allclose(fetch(a), [0.99]) and np.allclose(fetch(b), [0.95])


def test_zero_grad_forgets_the_gradients_of_all_groups():
    a, b = parameter([1.0], [1.0]), parameter([1.0], [1.0])
    optim.SGD([{"params": [a]}, {"params": [b]}], lr=0.1).zero_grad()
    assert a.grad is None and b.grad is None


def test_parameters_lists_those_of_all_groups():
    a, b = parameter([1.0]), parameter([1.0])
    assert [id(p) for p in optim.Adam([{"params": [a]}, {"params": [b]}]).parameters()] == [id(a), id(b)]


def test_the_first_step_of_adam_changes_every_weight_by_the_learning_rate():
    p = parameter(START, [1e-3, -1.0, 1e3, 5.0])
    optim.Adam([p], lr=0.01).step()
    assert np.allclose(fetch(p) - START, [-0.01, 0.01, -0.01, -0.01], rtol=1e-4)


def test_momentum_of_a_constant_gradient_approaches_one_over_one_minus_momentum():
    p = parameter([0.0], [1.0])
    optimizer = optim.SGD([p], lr=1.0, momentum=0.9)
    for _ in range(300):
        before = fetch(p).copy()
        optimizer.step()
    assert np.allclose(before - fetch(p), 10)


def test_adamw_decays_weights_apart_from_the_gradients_scaling():
    """With a gradient of 0 Adam's L2 term would be rescaled to a full step; AdamW shrinks by lr · λ."""
    p = parameter([2.0], [0.0])
    optim.AdamW([p], lr=0.1, weight_decay=0.5).step()
    assert np.allclose(fetch(p), [2 * (1 - 0.05)])


def test_an_optimizer_trains_a_model():
    model = nn.Linear(3, 1).to(DEVICE)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)).astype("float32")
    target = tensor(x @ np.array([[1.0], [-2.0], [0.5]], "float32") + 3)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(200):
        optimizer.zero_grad()
        ((model(tensor(x)) - target) ** 2).mean().backward()
        optimizer.step()
    assert np.allclose(fetch(model.weight), [[1, -2, 0.5]], atol=1e-4) and np.allclose(fetch(model.bias), 3, atol=1e-4)


# --------------------------------------------------------------------------------------------------------- schedules


@pytest.mark.host("functions of the step number")
def test_constant_is_one():
    assert {optim.constant()(t) for t in (0, 1, 1000)} == {1.0}


@pytest.mark.host("functions of the step number")
def test_step_falls_by_its_factor_every_so_many_steps():
    schedule = optim.step(10, 0.5)
    assert [schedule(t) for t in (0, 9, 10, 19, 20, 35)] == [1, 1, 0.5, 0.5, 0.25, 0.125]


@pytest.mark.host("functions of the step number")
def test_cosine_goes_from_one_to_its_end_along_half_a_cosine():
    schedule = optim.cosine(100, end=0.2)
    expected = [1, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.6, 0.2, 0.2]
    assert np.allclose([schedule(t) for t in (0, 25, 50, 100, 150)], expected)
    assert optim.cosine(10)(10) == 0


@pytest.mark.host("functions of the step number")
def test_warmup_rises_in_a_line_then_counts_the_next_schedule_from_its_own_start():
    schedule = optim.warmup(4, optim.step(10, 0.5))
    assert [schedule(t) for t in (0, 1, 3, 4, 13, 14)] == [0.25, 0.5, 1, 1, 1, 0.5]
    assert optim.warmup(2)(100) == 1


# ---------------------------------------------------------------------------------------------------------- clipping


def test_clip_grad_norm_scales_all_gradients_by_one_factor():
    a, b = parameter([0.0, 0.0], [3.0, 0.0]), parameter([[0.0]], [[4.0]])
    before = optim.clip_grad_norm([a, b], 1.0)
    assert np.isclose(fetch(before), 5)
    assert np.allclose(fetch(a.grad), [0.6, 0], rtol=1e-6) and np.allclose(fetch(b.grad), [[0.8]], rtol=1e-6)


def test_clip_grad_norm_leaves_short_gradients_as_they_are():
    a, idle = parameter([0.0], [0.5]), parameter([0.0])
    optim.clip_grad_norm([a, idle], 1.0)
    assert np.array_equal(fetch(a.grad), [0.5]) and idle.grad is None


def test_clip_grad_norm_never_exceeds_the_limit_and_keeps_float32():
    p = nn.Parameter(tensor(np.zeros(1000, "float32")).data)
    p.grad = tensor(np.random.default_rng(0).normal(size=1000).astype("float32")).data
    optim.clip_grad_norm([p], 0.5)
    assert p.grad.dtype == np.float32 and 0.4999 < np.linalg.norm(fetch(p.grad).astype("float64")) <= 0.5


def test_clip_grad_value_limits_every_element():
    a, idle = parameter([0.0] * 3, [-5.0, 0.3, 5.0]), parameter([0.0])
    optim.clip_grad_value([a, idle], 0.5)
    assert np.array_equal(fetch(a.grad), [-0.5, 0.3, 0.5])


# ------------------------------------------------------------------------------------------------------------ errors

P = parameter([1.0])


@pytest.mark.host("refused before anything is computed")
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: optim.SGD([], lr=0.1), ValueError, r"SGD was given no parameters; pass model.parameters\(\)"),
        (lambda: optim.SGD([P, P], lr=0.1), ValueError, "a parameter is listed twice"),
        (lambda: optim.SGD([{"params": P}, {"params": [P]}], lr=0.1), ValueError, "a parameter is listed twice"),
        (lambda: optim.SGD([P], lr=0.0), ValueError, "learning rate must be positive; got lr=0.0"),
        (lambda: optim.SGD([P], lr=math.nan), ValueError, "learning rate must be positive; got lr=nan"),
        (lambda: optim.SGD([{"params": P, "lr": -1}], lr=0.1), ValueError, "got lr=-1"),
        (lambda: optim.SGD([{"params": P, "momentun": 0.9}], lr=0.1), ValueError, r"a group sets \['momentun'\]"),
        (lambda: optim.SGD([P], lr=0.1, nesterov=True), ValueError, "nesterov=True needs a momentum"),
        (lambda: optim.Adam([P], betas=(0.9, 1.0)), ValueError, r"betas must lie in \[0, 1\)"),
        (lambda: optim.SGD([tensor(np.ones(2))], lr=0.1), TypeError, "changes tensors that require gradients"),
        (lambda: optim.SGD([P * 2], lr=0.1), TypeError, "leaves"),
        (lambda: optim.SGD([np.ones(2)], lr=0.1), TypeError, "got ndarray"),
        (lambda: optim.clip_grad_norm([parameter([1.0])], 1.0), ValueError, "no parameter has a gradient"),
        (lambda: optim.clip_grad_norm([P], 0.0), ValueError, "max_norm must be positive; got 0.0"),
        (lambda: optim.clip_grad_value([P], -1.0), ValueError, "limit must be positive"),
        (lambda: optim.step(0), ValueError, "every must be at least 1 step"),
        (lambda: optim.cosine(0), ValueError, "total must be at least 1 step"),
        (lambda: optim.warmup(0), ValueError, "steps must be at least 1"),
    ],
)
def test_a_mistake_is_refused_with_a_reason(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            lambda: optim.Adam([parameter([1.0]), parameter([1.0])]),
            "1 groups and 2 parameters; this optimizer has 1 and 1",
        ),
        (lambda: optim.Adam([parameter([1.0, 2.0])]), r"saved m has shape \(2,\), its parameter \(1,\)"),
        (
            lambda: optim.SGD([parameter([1.0])], lr=0.1, momentum=0.9),
            r"saved settings \['lr', 'momentum', 'nesterov', 'weight_decay'\] are not those of Adam",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(other, words):
    saved_from = other()
    for p in saved_from.parameters():
        p.grad = p.data
    saved_from.step()
    optimizer = optim.Adam([parameter([1.0])], lr=0.5)
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(saved_from.state_dict())
    assert optimizer.groups[0]["lr"] == 0.5 and optimizer.state == [{}]
