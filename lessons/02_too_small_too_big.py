# %% [markdown]
# # Too small, too big: what does depth do to σ?
# **Goal:** predict from one line of algebra how a signal and a gradient change from layer to layer, and measure it.
# **Time:** 30 minutes; the code itself runs for about 8 seconds.
#
# Ten hidden layers of n = 500 units, all weights drawn from one normal law N(0, σ²), biases zero. An article that
# surveys initialization says of one such law that the values hardly matter to the network.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

from minidl import init, lab, models
from minidl.backend import device_for, to_device
from minidl.meanfield import gaussian_moments
from minidl.text import table

DEVICE, WIDTH, DEPTH = device_for(), 500, 10
SEEDS, BATCH = (1, 32) if os.environ.get("MINIDL_FAST") == "1" else (4, 64)
ACTIVATIONS, SIGMAS = ("linear", "tanh", "relu"), (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
rng = np.random.default_rng(0)
x = rng.standard_normal((BATCH, WIDTH), dtype=np.float32)  # noise will do: the laws below do not ask what x means
y = rng.integers(10, size=BATCH)

# %% [markdown]
# ## Predict
# A pre-activation z = w₁h₁ + … + wₙhₙ sums n independent terms, so E z² = nσ² · E h². The activation keeps a share of
# it: all for a linear layer (and for tanh as long as z is small), one half for ReLU, which drops the negative side.
#
# * **Up:** per layer the mean square changes by nσ² (linear, small tanh) or nσ²/2 (ReLU), the rms by the root of that.
# * **Down:** δ travels as Wᵀδ times the slope: again n terms, and the slope of ReLU is 1 for one half. Same factor.
#
# Write down your predictions for n = 500: what is left of a signal of size 1 after ten tanh layers with σ = 0.01?
# By how much does ReLU with σ = 1 multiply it, per layer? Is there a σ that suits both tanh and ReLU?
# (For any activation the two shares are E φ(z)² and E φ'(z)² over a normal z: `gaussian_moments` computes them.)


# %%
def factor(activation, sigma):
    """The factor per layer of the rms, up and down, where it is the same in every layer."""
    return sigma * np.sqrt(WIDTH / 2 if activation == "relu" else WIDTH)


def theory(activation, sigma):
    """rms of the pre-activation at every hidden layer; rms of the gradient there, relative to the last one."""
    gain = WIDTH * sigma**2
    up, down = [gain], [1.0]
    while len(up) < DEPTH:
        up.append(gain * gaussian_moments(activation, up[-1]).square)
    for square in up[-2::-1]:
        down.insert(0, gain * gaussian_moments(activation, square).slope_square * down[0])
    return np.sqrt(up), np.sqrt(down)


# %% [markdown]
# ## Run
# `lab.probe` sends one batch up and its gradient down, and measures every layer on the way. Nothing is trained.


# %%
def network(activation, sigma, seed):
    """Ten hidden layers and ten outputs, all weights from N(0, sigma^2)."""
    return models.mlp([WIDTH] * (DEPTH + 1) + [10], activation, init=init.normal(std=sigma), seed=seed).to(DEVICE)


def measure(activation, sigma, seed):
    """The same two ladders as ``theory``, measured in one network."""
    report = lab.probe(network(activation, sigma, seed), x, y)
    up, down = report.ladder("rms"), np.array(report.ladder("delta_rms"))
    return up, down / down[-1]


def slopes(up, down):
    """ln of the factor per layer, of the signal on the way up and of the gradient on the way down."""
    return np.log([lab.change_per_layer(up), lab.change_per_layer(down[::-1])])


cells = [(activation, sigma) for activation in ACTIVATIONS for sigma in SIGMAS]
ladders = {cell: [measure(*cell, seed) for seed in range(SEEDS)] for cell in cells}

# %% [markdown]
# Lines: one measured network each. Pale bands: the theory. On a log axis a constant factor makes a straight line.
# A cross marks where a line leaves the figure. Which lines bend, and why only those?

# %%
fig, axes = plt.subplots(2, 3, figsize=(11.5, 7.2), sharex=True, sharey=True, layout="constrained", facecolor="white")
for row, what in enumerate(("signal: rms of the pre-activation", "gradient there / gradient at layer 10")):
    for ax, activation in zip(axes[row], ACTIVATIONS, strict=True):
        lines = {f"$\\sigma$ = {sigma:g}": ladders[activation, sigma][0][row] for sigma in SIGMAS}
        bands = {f"$\\sigma$ = {sigma:g}": theory(activation, sigma)[row] for sigma in SIGMAS}
        lab.plot_ladders(lines, ax=ax, limits=(1e-12, 1e8), theory=bands)
        ax.set(title=activation if row == 0 else "", xlabel="hidden layer" if row == 1 else "")
    axes[row][0].set_ylabel(what)
fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
fig.savefig("ladders.png", dpi=120)

# %% [markdown]
# The outputs of tanh layers show two ways to lose a signal: all near zero, or all at the flat ends -1 and 1. People say
# that no gradient passes there; at σ = 1 few units let it pass, but the large weights make it *grow* at every layer.

# %%
fig, axes = plt.subplots(3, 5, figsize=(10, 4.8), sharex=True, layout="constrained", facecolor="white")
for row, sigma in zip(axes, (0.01, 0.05, 1.0), strict=True):
    outputs = [to_device(x, DEVICE)]
    for module in network("tanh", sigma, seed=0):  # flatten, linear1, tanh1, linear2, tanh2, ...
        outputs.append(module(outputs[-1]))
    for ax, layer in zip(row, (1, 2, 4, 7, 10), strict=True):
        ax.hist(outputs[2 * layer + 1].numpy().ravel(), bins=np.linspace(-1, 1, 42), color="#0072B2")
        ax.set(yticks=[], title=f"outputs of tanh{layer}" if sigma == 0.01 else "")
    row[0].set_ylabel(f"$\\sigma$ = {sigma:g}")
fig.savefig("histograms.png", dpi=120)

# %% [markdown]
# ## Check
# One network is not the average: with ReLU and one input, ln(mean square) wanders with variance 5/n per layer. So we
# compare the *slope*, averaged over layers and seeds, and allow five standard errors (a false alarm in 10 000 runs).

# %%
predicted = {cell: slopes(*theory(*cell)) for cell in cells}
measured = {cell: np.mean([slopes(*pair) for pair in ladders[cell]], axis=0) for cell in cells}
tenth = factor("tanh", 0.01) ** 10, ladders["tanh", 0.01][0][0][9]
rows = [("tanh, sigma 0.01: signal at layer 10", "", *(f"{rms:.2g}" for rms in tenth))]
for cell in [("linear", 0.01), ("tanh", 0.01), ("tanh", 1.0), ("relu", 0.01), ("relu", 1.0)]:
    for what, *logs in zip(("signal", "gradient"), predicted[cell], measured[cell], strict=True):
        name = f"{cell[0]}, sigma {cell[1]:g}: {what} per layer"
        rows.append((name, "hardly matters", *(f"x{np.exp(log):.4g}" for log in logs)))
print(table([dict(zip(("what", "claimed", "predicted", "measured"), row, strict=True)) for row in rows]))
error = np.sqrt(5 / WIDTH / (DEPTH - 1) / SEEDS) / 2  # half of it: rms, not mean square
for cell in cells:
    if cell[0] != "tanh":
        assert np.allclose(predicted[cell], np.log(factor(*cell))), "the factor is n s^2 (linear) or n s^2 / 2 (ReLU)"
    text = f"{cell}: signal and gradient x{np.exp(measured[cell])} per layer, theory x{np.exp(predicted[cell])}"
    assert np.all(abs(measured[cell] - predicted[cell]) < 5 * error), f"{text}; is the std of W really sigma?"
print("check: passed")

# %% [markdown]
# ## Exercise
# Between σ = 0.03 and σ = 0.1 the ReLU slope changes its sign. Find the σ of slope 0 by bisection: halve the interval
# twelve times, and keep the half at whose ends `slopes(*measure("relu", sigma, seed=0))[0]` has different signs.
# Which formula in n have you found? Is it the same for the gradient, `[1]`? Why does tanh need another σ?

# %%
my_sigma = None
if my_sigma is not None:
    slope = slopes(*measure("relu", my_sigma, seed=0))[0]
    assert abs(slope) < 1e-3, f"sigma {my_sigma}: the signal still changes by x{np.exp(slope):.3f} per layer"
    print(f"right: {my_sigma:.4f}; sqrt(2/n) is {np.sqrt(2 / WIDTH):.4f}. The rest is this draw: try other seeds.")
plt.show()
