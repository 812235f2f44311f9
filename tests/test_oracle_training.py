"""Fifty training steps, every optimizer, against PyTorch in float64 from the same weights; schedules; clipping."""

import numpy as np
import pytest
from conftest import tensor
from oracle import agree, torch, twins

from minidl import nn, ops, optim

F = torch.nn.functional
pytestmark = pytest.mark.oracle

STEPS = 50
CLOSE = 1e-9  # of the largest weight; the project promises 1e-6


# --------------------------------------------------------------------------------------------------------------- models


def mlp(lib):
    return lib.Sequential(
        lib.Flatten(),
        *(lib.Linear(30, 20), lib.Tanh()),
        *(lib.Linear(20, 20), lib.ReLU()),
        lib.Linear(20, 10),
    )


def lenet5(lib):
    """LeCun et al. 1998 on 28×28 images, with max-pooling."""
    return lib.Sequential(
        *(lib.Conv2d(1, 6, 5), lib.Tanh(), lib.MaxPool2d(2)),
        *(lib.Conv2d(6, 16, 5), lib.ReLU(), lib.MaxPool2d(2)),
        lib.Flatten(),
        *(lib.Linear(256, 120), lib.Tanh()),
        *(lib.Linear(120, 84), lib.Tanh()),
        lib.Linear(84, 10),
    )


def normalized(lib):
    return lib.Sequential(
        *(lib.Conv2d(1, 4, 3, stride=2, bias=False), lib.BatchNorm2d(4), lib.ReLU()),
        lib.Flatten(),
        *(lib.Linear(4 * 16, 12, bias=False), lib.BatchNorm1d(12), lib.Tanh()),
        lib.Linear(12, 10),
    )


MODELS = {"mlp": (mlp, (1, 5, 6)), "lenet5": (lenet5, (1, 28, 28)), "normalized": (normalized, (1, 9, 9))}


def batches(shape, size=8, kept=4):
    """The same few batches over and over, so that there is something to learn."""
    rng = np.random.default_rng(1)
    some = [(rng.normal(size=(size, *shape)), rng.integers(0, 10, size=size)) for _ in range(kept)]
    return [some[t % kept] for t in range(STEPS)]


# ----------------------------------------------------------------------------------------------------------- optimizers


def groups(parameters, **of_first):
    """The first two parameters in a group with settings of their own."""
    return [{"params": parameters[:2], **of_first}, {"params": parameters[2:]}]


# name -> (class in both libraries, settings, settings of the first group)
OPTIMIZERS = {
    "SGD": ("SGD", {"lr": 0.1}, {}),
    "momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}, {}),
    "Nesterov": ("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True}, {}),
    "SGD with weight decay": ("SGD", {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.03}, {}),
    "SGD in groups": ("SGD", {"lr": 0.1, "momentum": 0.5}, {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}),
    "Adam": ("Adam", {"lr": 2e-3}, {}),
    "Adam with other constants": ("Adam", {"lr": 5e-3, "betas": (0.7, 0.9), "eps": 1e-3}, {}),
    "Adam with weight decay": ("Adam", {"lr": 2e-3, "weight_decay": 0.03}, {}),
    "Adam in groups": ("Adam", {"lr": 2e-3}, {"lr": 1e-4, "betas": (0.5, 0.9)}),
    "AdamW": ("AdamW", {"lr": 2e-3}, {}),
    "AdamW with more decay": ("AdamW", {"lr": 2e-3, "weight_decay": 0.3}, {}),
    "AdamW in groups": ("AdamW", {"lr": 2e-3}, {"lr": 1e-3, "weight_decay": 1.0}),
}


class Race:
    """A model and its twin, each with an optimizer; ``step`` trains both on one batch and compares their losses."""

    def __init__(self, which, optimizer):
        make, self.shape = MODELS[which]
        self.ours, self.theirs = make(nn), make(torch.nn)
        self.pairs = twins(self.ours, self.theirs)
        self.start = [q.detach().clone() for _, q in self.pairs]
        kind, settings, of_first = OPTIMIZERS[optimizer]
        mine, truths = ([pair[i] for pair in self.pairs] for i in (0, 1))
        self.optimizer = getattr(optim, kind)(groups(mine, **of_first), **settings)
        self.judge = getattr(torch.optim, kind)(groups(truths, **of_first), **settings)

    def backward(self, x, y):
        """Loss and gradients of both; PyTorch's loss."""
        self.optimizer.zero_grad()
        self.judge.zero_grad()
        loss = ops.cross_entropy(self.ours(tensor(x)), tensor(y))
        truth = F.cross_entropy(self.theirs(torch.from_numpy(x)), torch.from_numpy(y))
        agree(loss, truth, CLOSE, "loss")
        loss.backward()
        truth.backward()
        return truth.item()

    def step(self, x, y):
        loss = self.backward(x, y)
        self.optimizer.step()
        self.judge.step()
        return loss

    def compare(self):
        """All parameters equal, and none where it started."""
        for i, ((p, q), start) in enumerate(zip(self.pairs, self.start, strict=True)):
            agree(p, q, CLOSE, f"parameter {i}")
            assert (q - start).abs().max() > 1e-3, f"parameter {i} was not trained"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ["mlp", "lenet5"])
def test_fifty_steps_end_where_pytorchs_end(model, optimizer):
    race = Race(model, optimizer)
    losses = [race.step(x, y) for x, y in batches(race.shape)]
    race.compare()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("optimizer", ["Nesterov", "AdamW"])
def test_fifty_steps_with_batch_norm_end_where_pytorchs_end(optimizer):
    race = Race("normalized", optimizer)
    for x, y in batches(race.shape):
        race.step(x, y)
    race.compare()
    truths = {name: b for name, b in race.theirs.named_buffers() if "num_batches" not in name}
    assert truths.keys() == dict(race.ours.named_buffers()).keys()
    for name, buffer in race.ours.named_buffers():
        agree(buffer, truths[name], CLOSE, name)
    x = batches(race.shape)[0][0]
    agree(race.ours.eval()(tensor(x)), race.theirs.eval()(torch.from_numpy(x)), CLOSE, "evaluation")


@pytest.mark.parametrize("optimizer", ["momentum", "Adam"])
@pytest.mark.parametrize("model", ["mlp", "lenet5"])
def test_fifty_steps_with_clipped_gradients_end_where_pytorchs_end(model, optimizer):
    race, norms, limit = Race(model, optimizer), [], 2.5
    mine, truths = ([pair[i] for pair in race.pairs] for i in (0, 1))
    for x, y in batches(race.shape):
        race.backward(x, y)
        norm = optim.clip_grad_norm(mine, max_norm=limit)
        norms.append(torch.nn.utils.clip_grad_norm_(truths, max_norm=limit).item())
        agree(norm, np.asarray(norms[-1]), CLOSE, "norm of the gradient")
        race.optimizer.step()
        race.judge.step()
    race.compare()
    assert min(norms) < limit < max(norms)  # short ones stay, long ones are clipped


def test_gradients_clipped_by_value_are_pytorchs():
    race = Race("mlp", "SGD")
    race.backward(*batches(race.shape)[0])
    optim.clip_grad_value([p for p, _ in race.pairs], 0.01)
    torch.nn.utils.clip_grad_value_([q for _, q in race.pairs], 0.01)
    for p, q in race.pairs:
        agree(p.grad, q.grad)


@pytest.mark.parametrize("optimizer", ["SGD with weight decay", "Adam with weight decay", "AdamW"])
def test_a_parameter_that_sometimes_has_no_gradient_is_left_alone_as_in_pytorch(optimizer):
    """No decay, no momentum, and Adam's step count stands still too."""
    race = Race("mlp", optimizer)
    for t, (x, y) in enumerate(batches(race.shape)):
        race.backward(x, y)
        if t % 3 != 1:
            for p, q in race.pairs[1:3]:
                p.grad = q.grad = None
        race.optimizer.step()
        race.judge.step()
    race.compare()


# ------------------------------------------------------------------------------------------------------------ schedules

rates = torch.optim.lr_scheduler


def sequence(o):
    up = rates.LinearLR(o, start_factor=1 / 5, end_factor=1.0, total_iters=4)
    return rates.SequentialLR(o, [up, rates.CosineAnnealingLR(o, 15)], milestones=[5])


SCHEDULES = {
    "constant": (optim.constant(), lambda o: rates.ConstantLR(o, factor=1.0)),
    "step": (optim.step(7, 0.3), lambda o: rates.StepLR(o, 7, 0.3)),
    "step by default": (optim.step(4), lambda o: rates.StepLR(o, 4)),
    "cosine": (optim.cosine(20), lambda o: rates.CosineAnnealingLR(o, 20)),
    "cosine to a fifth": (optim.cosine(20, end=0.2), lambda o: rates.CosineAnnealingLR(o, 20, eta_min=0.2 * 0.05)),
    "warm-up": (optim.warmup(5), lambda o: rates.LinearLR(o, start_factor=1 / 5, end_factor=1.0, total_iters=4)),
    "warm-up, then cosine": (optim.warmup(5, optim.cosine(15)), sequence),
}


@pytest.mark.filterwarnings("ignore:.*epoch parameter.*")  # PyTorch's SequentialLR against its own advice
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_pytorchs(name):
    """Up to step 20. Afterwards PyTorch's cosine rises again, ours stays at its end (next test)."""
    schedule, make = SCHEDULES[name]
    judge = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    theirs, truth = make(judge), []
    for _ in range(21):
        truth.append(theirs.get_last_lr()[0])
        judge.step()
        theirs.step()
    np.testing.assert_allclose([0.05 * schedule(t) for t in range(21)], truth, rtol=1e-10, atol=1e-16)


def test_a_finished_cosine_stays_down_and_pytorchs_rises_again():
    judge = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = rates.CosineAnnealingLR(judge, 10)
    for _ in range(15):
        judge.step()
        theirs.step()
    assert theirs.get_last_lr()[0] == pytest.approx(0.5)
    assert optim.cosine(10)(15) == 0.0


@pytest.mark.parametrize("optimizer", ["SGD in groups", "AdamW in groups"])
def test_fifty_steps_with_a_schedule_end_where_pytorchs_end(optimizer):
    """The schedule multiplies the rate of every group, and with it AdamW's decay."""
    race, schedule = Race("mlp", optimizer), optim.cosine(STEPS)
    theirs = rates.CosineAnnealingLR(race.judge, STEPS)
    for t, (x, y) in enumerate(batches(race.shape)):
        race.optimizer.lr_factor = schedule(t)
        race.step(x, y)
        theirs.step()
    race.compare()
