# %% [markdown]
# # ReLU throws half away: He
# **Goal:** find the one factor that Xavier lacks under ReLU, and predict which depth of network it stops from learning.
# **Time:** 30 minutes; the code itself runs for about 15 seconds.
#
# Lesson 3 took an activation for linear near 0. ReLU is not, at any size: it drops the negative side. An article that
# surveys initialization gives N(0, 2/n) for ReLU three times, as "Xavier for ReLU", as "He" and as a newer method,
# "Kaiming"; and it says that with He's nothing has to be set layer by layer.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

from minidl import data, init, lab, models, nn, optim, train
from minidl.backend import device_for
from minidl.text import table

DEVICE, FAST = device_for(), os.environ.get("MINIDL_FAST") == "1"
N, LAYERS, SEEDS = 256, 30, 2 if FAST else 5
DEPTHS, WIDTH, EPOCHS = ((10, 30), 64, 12) if FAST else ((10, 20, 30), 128, 20)
SCHEMES = {"He: 2/n": init.he_normal(), "Xavier: 1/n": init.glorot_normal(), "PyTorch: 1/(3n)": init.torch_default()}
LOOKS = [
    {"color": c, "ls": d, "lw": w} for c, d, w in (("#000000", "-", 2), ("#0072B2", "--", 3.5), ("#D55E00", "-.", 2))
]
WEIGHTS = dict(zip(SCHEMES, (2, 1, 1 / 3), strict=True))  # n Var(w) of a square layer
rng = np.random.default_rng(0)
x, y = rng.standard_normal((64, N), dtype=np.float32), rng.integers(10, size=64)
split = data.load("digits")

# %% [markdown]
# ## Predict
# Weights with mean 0 make z as often negative as positive. So relu(z) has *half* the mean square of z, and the slope of
# ReLU is 1 for one half of the units and 0 for the others. In a square layer of n units:
#
# 1. By what does the mean square of the signal change per layer, for a given n Var(w)? And that of the gradient?
# 2. For which Var(w) by 1? (That is He's recipe, 2015.) Does it depend on the layer or not?
# 3. What is left of a mean square of 1 after 30 layers with Xavier's 1/n? With PyTorch's default, 1/(3n)?
# 4. A rule of thumb, with χ the factor of 1.: depth × |ln χ| below 6 is no trouble, above 16 nothing is learned.
#    Which of these three will learn with 10 layers, with 20, with 30?


# %%
def chi(weights):
    """The factor per layer of the mean square, up and down, for a given n Var(w)."""
    return weights / 2


def theory(weights):
    """rms of the pre-activation at every layer; rms of the gradient there, relative to the last one."""
    steps = np.arange(LAYERS)
    return np.sqrt(weights * chi(weights) ** steps), np.sqrt(chi(weights) ** steps[::-1])


# %% [markdown]
# ## Run
# Signal and gradient before training. Lines: the median of several networks. Pale bands: the formula.


# %%
def measure(scheme, seed):
    """The same two ladders as ``theory``, measured in one network before training."""
    report = lab.probe(models.mlp([N] * (LAYERS + 1) + [10], "relu", init=scheme, seed=seed).to(DEVICE), x, y)
    down = np.array(report.ladder("delta_rms"))
    return np.array(report.ladder("rms")), down / down[-1]


ladders = {name: np.array([measure(scheme, seed) for seed in range(SEEDS)]) for name, scheme in SCHEMES.items()}
fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained", facecolor="white")
for i, ax in enumerate(axes):
    lines = {name: np.median(found[:, i], axis=0) for name, found in ladders.items()}
    lab.plot_ladders(lines, ax, (1e-12, 1e1), theory={name: theory(weights)[i] for name, weights in WEIGHTS.items()})
axes[0].set_title("signal: rms of the pre-activation", fontsize=11)
axes[1].set_title("gradient there / gradient at layer 30", fontsize=11)
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
fig.savefig("ladders.png", dpi=120)

# %% [markdown]
# Training: the same three on handwritten digits, with SGD and momentum. Write your verdicts down before you look.


# %%
def losses(scheme, depth):
    """Training loss of every epoch."""
    model = models.mlp([64] + [WIDTH] * depth + [10], "relu", init=scheme, seed=0).to(DEVICE)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    history = train.fit(model, split, optimizer=optimizer, epochs=EPOCHS, quiet=True)
    return [record["train_loss"] for record in history]


curves = {(name, depth): losses(scheme, depth) for depth in DEPTHS for name, scheme in SCHEMES.items()}
trouble = {(name, depth): depth * abs(np.log(chi(WEIGHTS[name]))) for name, depth in curves}
fig, axes = plt.subplots(1, len(DEPTHS), figsize=(11, 4.2), sharey=True, layout="constrained", facecolor="white")
for ax, depth in zip(axes, DEPTHS, strict=True):
    for name, look in zip(SCHEMES, LOOKS, strict=True):
        ax.plot(range(1, EPOCHS + 1), curves[name, depth], label=name, **look)
    numbers = ", ".join(f"{trouble[name, depth]:.0f}" for name in SCHEMES)
    ax.set_title(f"{depth} hidden layers\ndepth × |ln χ|: {numbers}", fontsize=11)
    ax.axhline(np.log(10), color="#999999", linewidth=0.8)
    ax.set(xlabel="epoch", ylim=(0, 2.5))
axes[0].set_ylabel("training loss (grey: guessing)")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
fig.savefig("training.png", dpi=120)

# %% [markdown]
# ## Check
# Xavier leaves (1/2)³⁰ = 9 · 10⁻¹⁰ of the mean square, PyTorch's default (1/6)³⁰ = 5 · 10⁻²⁴. One network is not the
# average: ln(mean square) wanders with variance 5/n per layer. So the slope is compared, within five standard errors.

# %%
error = np.sqrt(5 / N / (LAYERS - 1) / SEEDS) / 2  # half of it: rms, not mean square
rows = []
for name, found in ladders.items():
    for what, lines in (("signal", found[:, 0]), ("gradient", found[:, 1, ::-1])):
        measured = np.log([lab.change_per_layer(list(line)) for line in lines]).mean()
        expected = np.log(chi(WEIGHTS[name])) / 2
        rows.append((f"{name}: {what} per layer", "", f"x{np.exp(expected):.4f}", f"x{np.exp(measured):.4f}"))
        text = f"{name}: {what} x{np.exp(measured):.4f} per layer, not x{np.exp(expected):.4f}"
        assert abs(measured - expected) < 5 * error, f"{text}; ReLU keeps one half, so chi = n Var(w) / 2"
for (name, depth), number in trouble.items():
    verdict, best = "learns" if number <= 6 else "slow" if number <= 16 else "nothing", min(curves[name, depth])
    rows.append((f"{name}: {depth} layers", "", verdict, f"loss {best:.3g}"))
    assert (verdict == "nothing") == (best > 2.25), f"{name}, {depth} layers: predicted {verdict}, loss {best:.3g}"
recipes = init.as_written_xavier("relu"), init.he_normal(), init.kaiming_normal()
draws = [scheme((84, 120), fan_in=120, fan_out=84, rng=np.random.default_rng(0)) for scheme in recipes]
kinds = len({draw.tobytes() for draw in draws})
rows.append(("Xavier for ReLU, He, Kaiming: recipes", "3", "1", str(kinds)))
print(table([dict(zip(("what", "claimed", "predicted", "measured"), row, strict=True)) for row in rows]))
assert kinds == 1, "all three are N(0, 2/n): the same seed draws the same weights, bit for bit"
print("check: passed")

# %% [markdown]
# ## Exercise
# A leaky ReLU keeps the negative side, times a. Derive χ, then the std of the weights that keeps the signal of 256
# units for a = 1/2, and write it down. What would He's √(2/n) = 0.0884 do here?

# %%
my_std = None
if my_std is not None:
    layers = [part for _ in range(LAYERS) for part in (nn.Linear(N, N), nn.LeakyReLU(negative_slope=0.5))]
    model = nn.Sequential(*layers, nn.Linear(N, 10)).to(DEVICE)
    init.apply(model, init.normal(std=my_std), seed=0)
    factor = lab.change_per_layer(lab.probe(model, x, y).ladder("rms"))
    assert abs(np.log(factor)) < 0.03, f"no: the signal changes by x{factor:.3f} per layer; which share is kept?"
    print(f"right: x{factor:.3f} per layer. With a = 1 the unit is linear: which recipe is that?")
plt.show()
