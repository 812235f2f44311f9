# %% [markdown]
# # One line of algebra: LeCun and Xavier
# **Goal:** derive the two oldest recipes for the size of a weight, and find what each of them does *not* keep.
# **Time:** 35 minutes; the code itself runs for about 5 seconds.
#
# Lesson 2: no single σ suits every width. So let σ depend on the layer, with n inputs (*fan_in*) and m outputs
# (*fan_out*). An article that surveys initialization recommends Xavier's Var(w) = 2/(n + m) for tanh and sigmoid,
# because it gives "the parameters mean 0 and variance 1". Xavier is Glorot's first name: one recipe, two names.

# %%
import os
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

from minidl import init, lab, models
from minidl.backend import device_for
from minidl.meanfield import gaussian_moments
from minidl.text import table

DEVICE, SEEDS = device_for(), 1 if os.environ.get("MINIDL_FAST") == "1" else 4
HOURGLASS, DEEP = [512, 64] * 5 + [512], [256] * 51  # from the input to the last hidden layer
rng = np.random.default_rng(0)
x, y = rng.standard_normal((64, 512), dtype=np.float32), rng.integers(10, size=64)

# %% [markdown]
# ## Predict
# **Up:** z = w₁h₁ + … + wₙhₙ is a sum of n terms, so E z² = n Var(w) · E h². **Down:** h goes into m units, so its
# gradient is a sum of m terms: m Var(w) · E δ². Take a pencil:
#
# 1. Which Var(w) keeps the signal? (That is LeCun's recipe, 1998.) Which one keeps the gradient? When are they one?
# 2. Glorot and Bengio (2010) took the mean of n and m: Var(w) = 2/(n + m). Take linear layers of 512, 64, 512, 64, …
#    units. By how much does each recipe change the signal over *two* layers, down and up again? And the gradient?
# 3. tanh is about linear near 0. Does a signal of size 1 keep its size through 50 tanh layers with n Var(w) = 1?
# 4. The "standard" before 2010, and still the default of PyTorch, is w ~ U(-1/√n, 1/√n). What is its n Var(w)?
#
# The answers, in code. A uniform law on (-a, a) has variance a²/3.

# %%
LINEAR = {
    "LeCun: 1/n": (init.lecun_normal(), lambda n, m: 1 / n),
    "the other way: 1/m": (init.lecun_normal(mode="fan_out"), lambda n, m: 1 / m),
    "Xavier: 2/(n + m)": (init.glorot_normal(), lambda n, m: 2 / (n + m)),
}
TANH = {
    "standard: 1/(3n)": (init.torch_default(), lambda n, m: 1 / (3 * n)),
    "Xavier: 1/n": (init.glorot_normal(), lambda n, m: 2 / (n + m)),
    "Xavier, gain 5/3": (init.glorot_normal(gain=5 / 3), lambda n, m: 25 / 9 * 2 / (n + m)),
}


def theory(variance, widths, activation):
    """rms of the pre-activation at every hidden layer; rms of the gradient there, relative to the last one."""
    (first, second), *others = pairwise(widths)
    up, down = [first * variance(first, second)], [1.0]
    for n, m in others:
        up.append(n * variance(n, m) * gaussian_moments(activation, up[-1]).square)
    for (n, m), square in zip(others[::-1], up[-2::-1], strict=True):
        down.insert(0, m * variance(n, m) * gaussian_moments(activation, square).slope_square * down[0])
    return np.sqrt(up), np.sqrt(down)


# %% [markdown]
# ## Run


# %%
def measure(scheme, widths, activation):
    """The same two ladders as ``theory``, averaged over several networks."""
    squares = []
    for seed in range(SEEDS):
        model = models.mlp([*widths, 10], activation, init=scheme, seed=seed).to(DEVICE)
        report = lab.probe(model, x[:, : widths[0]], y)
        up, down = np.array(report.ladder("rms")), np.array(report.ladder("delta_rms"))
        squares.append((up**2, (down / down[-1]) ** 2))
    return np.sqrt(np.mean(squares, axis=0))


def panels(schemes, widths, activation, limits):
    """Measured lines on predicted bands, the signal left and the gradient right; {label: (measured, predicted)}."""
    found = {k: (measure(s, widths, activation), theory(v, widths, activation)) for k, (s, v) in schemes.items()}
    fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained", facecolor="white")
    for i, ax in enumerate(axes):
        lines, bands = ({label: pair[which][i] for label, pair in found.items()} for which in (0, 1))
        lab.plot_ladders(lines, ax=ax, limits=limits, theory=bands)
    axes[0].set_title("signal: rms of the pre-activation", fontsize=11)
    axes[1].set_title("gradient there / gradient at the last layer", fontsize=11)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return fig, found


# %% [markdown]
# Ten linear layers of 64 and 512 units in turn. Lines: measured. Pale bands: the algebra. Which recipe loses *both*?

# %%
fig, hourglass = panels(LINEAR, HOURGLASS, "linear", (5e-2, 5))
fig.savefig("hourglass.png", dpi=120)

# %% [markdown]
# Fifty tanh layers of 256. The empirical gain 5/3 holds the signal. What does its gradient pay?

# %%
fig, deep = panels(TANH, DEEP, "tanh", (1e-6, 1e3))
fig.savefig("depth.png", dpi=120)

# %% [markdown]
# ## Check
# Over two layers Xavier keeps 2n/(n + m) · 2m/(n + m) = 4nm/(n + m)² of the mean square, 0.395 here, in *both*
# directions. After l tanh layers it leaves a mean square of about 1/(2l): a slow loss, but a loss. And one factor is
# not all: W stretches some directions and shrinks others. Its singular values average 8/(3π) of √(n Var(w)).

# %%
means = [np.linalg.svd(s((400, 400), fan_in=400, fan_out=400, rng=rng))[1].mean() for s, _ in TANH.values()]
weight = init.glorot_normal()((200, 300), fan_in=300, fan_out=200, rng=rng)
two, (lecun, _, xavier) = np.sqrt(4 * 512 * 64 / (512 + 64) ** 2), hourglass.values()
rows = [
    ("Xavier, 300 to 200: variance of a weight", "1", 2 / (300 + 200), weight.var()),
    ("LeCun, hourglass: signal at layer 10", "", 1, lecun[0][0][9]),
    ("LeCun, hourglass: gradient at layer 1", "", np.sqrt(512 / 64), lecun[0][1][0]),
    ("Xavier, hourglass: signal at layer 10", "kept", two**5, xavier[0][0][9]),
    ("Xavier, hourglass: gradient at layer 2", "kept", two**4, xavier[0][1][1]),
    ("Xavier, tanh: signal at layer 50", "kept", np.sqrt(1 / (2 * 50)), deep["Xavier: 1/n"][0][0][49]),
    ("Xavier: mean singular value", "", 8 / (3 * np.pi), means[1]),
    ("standard: mean singular value", "", 8 / (3 * np.pi) / np.sqrt(3), means[0]),
]
print(table([dict(zip(("what", "claimed", "predicted", "measured"), row, strict=True)) for row in rows]))
for what, _, predicted, measured in rows:
    assert abs(np.log(measured / predicted)) < 0.3, (
        f"{what} {measured:.3g}; n Var(w) up, m Var(w) down: {predicted:.3g}"
    )
for label, (found, ideal) in {**hourglass, **deep}.items():
    off = np.exp(np.max(abs(np.log(found / ideal))))
    assert off < 1.5, f"{label}: x{off:.2f} off the algebra in some layer; which Var(w) was drawn?"
print("check: passed")

# %% [markdown]
# ## Exercise
# Ten *linear* layers of 256 with the standard recipe: per layer the signal falls by √3 upwards, and so does the
# gradient downwards. A weight gets ∂W = δ hᵀ, h from below and δ from above. By how much does the rms of ∂W differ
# between layer 10 and layer 1? Write the ratio down. (Glorot and Bengio saw it in 2010, in their figure 8.)

# %%
my_ratio = None
if my_ratio is not None:
    model = models.mlp([256] * 11 + [10], "linear", init=init.torch_default(), seed=0).to(DEVICE)
    sizes = lab.probe(model, x[:, :256], y).ladder("weight_grad_rms")
    assert abs(np.log(my_ratio / (sizes[9] / sizes[0]))) < 0.5, f"no: {sizes[9] / sizes[0]:.2f}. Multiply h and d first"
    print(f"right: {sizes[9] / sizes[0]:.2f}. All are equal, and equally small: which optimizer minds that?")
plt.show()
