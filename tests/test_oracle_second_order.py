"""Second derivatives against PyTorch in float64: gradient penalties, Hessians times vectors, and higher orders."""

import numpy as np
import pytest
from conftest import tensor
from oracle import agree, torch, twins

from minidl import grad, hvp, nn, ops

F = torch.nn.functional
pytestmark = pytest.mark.oracle

CLOSE = 1e-10  # the project promises 1e-8


def tanh_mlp(lib):
    return lib.Sequential(lib.Linear(6, 9), lib.Tanh(), lib.Linear(9, 7), lib.Tanh(), lib.Linear(7, 4))


def normed_conv_net(lib):
    return lib.Sequential(
        *(lib.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), lib.BatchNorm2d(4), lib.Tanh()),
        *(lib.Conv2d(4, 6, 2, groups=2), lib.SiLU(), lib.AvgPool2d(2)),
        lib.Flatten(),
        *(lib.Linear(6 * 2 * 1, 5, bias=False), lib.BatchNorm1d(5)),
        lib.Linear(5, 4),
    )


def pooled_net_with_kinks(lib):
    return lib.Sequential(
        *(lib.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), lib.ReLU(), lib.MaxPool2d(3, 2, 1)),
        *(lib.ConvTranspose2d(3, 2, 3, stride=2, output_padding=1), lib.ELU(), lib.Flatten()),
        lib.Linear(2 * 12 * 8, 4),
    )


NETS = {
    "tanh mlp": (tanh_mlp, (5, 6)),
    "conv net with batch norm": (normed_conv_net, (5, 2, 10, 7)),
    "net with kinks": (pooled_net_with_kinks, (5, 2, 10, 6)),
}


def setting(name):
    """Both losses as functions of an input, the input in both libraries, and the pairs of parameters."""
    make, shape = NETS[name]
    ours, theirs = make(nn), make(torch.nn)
    pairs = twins(ours, theirs)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=shape), rng.integers(0, 4, size=shape[0])
    losses = (
        lambda x: ops.cross_entropy(ours(x), tensor(y)),
        lambda x: F.cross_entropy(theirs(x), torch.from_numpy(y)),
    )
    return losses, (tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)), pairs


def norm(grads):
    """√Σ g² over all gradients, in either library."""
    return sum((g * g).sum() for g in grads).sqrt()


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_of_the_weight_gradients_norm_is_pytorchs(name):
    (loss, truth), (x, q), pairs = setting(name)
    mine, theirs = ([pair[i] for pair in pairs] for i in (0, 1))
    ours = norm(grad(loss(x), mine, create_graph=True))
    judge = norm(torch.autograd.grad(truth(q), theirs, create_graph=True))
    agree(ours, judge, CLOSE)
    ours.backward()
    judge.backward()
    for i, (p, r) in enumerate([*pairs, (x, q)]):
        agree(p.grad, r.grad, CLOSE, f"leaf {i}")


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_of_a_loss_with_an_input_gradient_penalty_is_pytorchs(name):
    """As in WGAN-GP: loss + (‖∂loss/∂x‖ - 1)², one backward through both."""
    (loss, truth), (x, q), pairs = setting(name)
    first, second = loss(x), truth(q)
    ours = first + (norm([grad(first, x, create_graph=True)]) - 1) ** 2
    judge = second + (norm(torch.autograd.grad(second, q, create_graph=True)) - 1) ** 2
    agree(ours, judge, CLOSE)
    ours.backward()
    judge.backward()
    for i, (p, r) in enumerate(pairs):
        agree(p.grad, r.grad, CLOSE, f"parameter {i}")


@pytest.mark.parametrize("name", NETS)
def test_hessian_times_vector_is_pytorchs(name):
    (loss, truth), (x, q), pairs = setting(name)
    mine, theirs = ([pair[i] for pair in pairs] for i in (0, 1))
    rng = np.random.default_rng(2)
    v = [rng.normal(size=p.shape) for p in mine]
    products = hvp(lambda: loss(x), mine, [tensor(direction).data for direction in v])
    grads = torch.autograd.grad(truth(q), theirs, create_graph=True)
    judge = torch.autograd.grad(grads, theirs, [torch.from_numpy(direction) for direction in v])
    for i, (product, expected) in enumerate(zip(products, judge, strict=True)):
        agree(product, expected, CLOSE, f"parameter {i}")


def test_hessian_times_unit_vectors_is_pytorchs_hessian():
    ours, theirs = tanh_mlp(nn), tanh_mlp(torch.nn)
    twins(ours, theirs)
    x, weight = np.random.default_rng(1).normal(size=(5, 6)), ours[2].weight

    def of_weight(w):
        return torch.func.functional_call(theirs, {"2.weight": w}, torch.from_numpy(x)).logsumexp(1).mean()

    hessian = torch.autograd.functional.hessian(of_weight, theirs[2].weight.detach())
    for row, column in ((0, 0), (3, 5), (6, 8)):
        unit = np.zeros(weight.shape)
        unit[row, column] = 1.0
        (product,) = hvp(lambda: ours(tensor(x)).logsumexp(1).mean(), [weight], [tensor(unit).data])
        agree(product, hessian[:, :, row, column], CLOSE)


@pytest.mark.parametrize("order", [3, 4])
def test_higher_derivatives_are_pytorchs(order):
    """Of a scalar function of a vector that meets most smooth operations."""

    def ours(x):
        return (ops.softmax(x).log() * x.tanh() + ops.gelu(x) * x.sigmoid() / (1 + x * x).sqrt()).sum()

    def theirs(x):
        return (x.softmax(-1).log() * x.tanh() + F.gelu(x) * x.sigmoid() / (1 + x * x).sqrt()).sum()

    values = np.random.default_rng(0).normal(size=5)
    x, q = tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    y, z = ours(x), theirs(q)
    for i in range(order):
        c = np.random.default_rng(i).normal(size=5)
        y = (grad(y, x, create_graph=True) * tensor(c)).sum()
        z = (torch.autograd.grad(z, q, create_graph=True)[0] * torch.from_numpy(c)).sum()
        agree(y, z, CLOSE, f"order {i + 1}")
