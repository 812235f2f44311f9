# %% [markdown]
# # Reading the recipe: std or variance? truncated? which n?
# **Goal:** see what each careless reading of N(0, √(2/n)) does to a network, and tell the reading from what it does.
# **Time:** 35 minutes; the code itself runs for about 5 seconds.
#
# An article that surveys initialization writes its recipes as N(0, √(…)). Is that root the standard deviation or the
# variance? Is n the inputs of a layer, its outputs, or those of the network? And what is "Kaiming, a truncated normal
# that is never negative"? `minidl.init` has every reading, to the letter, as `as_written_…`.

# %%
import os
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

from minidl import init, lab, models
from minidl.backend import device_for
from minidl.text import table

DEVICE, SEEDS = device_for(), 2 if os.environ.get("MINIDL_FAST") == "1" else 8
SQUARE, FUNNEL = [256] * 11, [784, 600, 460, 350, 270, 210, 160, 120, 95, 75, 64]  # from the input to the last layer
x, y = abs(np.random.default_rng(0).standard_normal((64, 784), dtype=np.float32)), np.zeros(64)  # positive, as pixels

# %% [markdown]
# ## Predict
# ReLU layers with n inputs and m outputs. Where the mean of a weight is 0, lesson 4 holds: the mean square changes by
# n Var(w)/2 upwards, m Var(w)/2 downwards. Work out the factor per layer of the *rms* for n = m = 256:
#
# 1. √(2/n) is the std, as He means it. √(2/n) is the *variance*.
# 2. Keras up to 2.0.9 drew from He's law and drew again whatever lay beyond ±2σ. That law has 0.774 of the variance.
# 3. Xavier with "n = 784 inputs and m = 10 outputs" of the *network*: which std does every layer get?
# 4. "Never negative": the mean of |w| below 2σ is μ = 0.723 σ. Now all n terms of z have one sign, ReLU cuts nothing,
#    and n equal terms add up to n, not √n. What is the factor, with He's σ? Which constant weight does the same?

# %%
MU, SD = 0.72279, 0.50131  # mean and std of |w| for w ~ N(0, 1) cut at 2
MEAN, READ, C = (lambda output, _: output.mean()), init.as_written_gaussian, MU * (2 / 256) ** 0.5
CASES = [  # question, reading, scheme, mean and variance of a weight for n inputs and m outputs
    ("std or variance?", "as std", READ(), lambda n, m: (0, 2 / m)),
    ("std or variance?", "as variance", READ(second_argument="variance"), lambda n, m: (0, (2 / m) ** 0.5)),
    ("truncated?", "cut, restored", init.he_truncated_normal(), lambda n, m: (0, 2 / n)),
    ("truncated?", "cut, not restored", init.keras_2_0_9(), lambda n, m: (0, (MU**2 + SD**2) * 2 / n)),
    ("which n?", "inputs of the layer", READ("fan_in"), lambda n, m: (0, 2 / n)),
    ("which n?", "its outputs", READ("fan_out"), lambda n, m: (0, 2 / m)),
    ("which n?", "Xavier(784, 10)", init.as_written_xavier_global(784, 10), lambda n, m: (0, 2 / (784 + 10))),
    ("one sign?", "both signs", init.he_normal(), lambda n, m: (0, 2 / n)),
    ("one sign?", "Kaiming", init.as_written_kaiming(), lambda n, m: (MU * (2 / n) ** 0.5, SD**2 * 2 / n)),
    ("one sign?", "constant", init.constant(C), lambda n, m: (C, 0)),
]
LIMITS = {"std or variance?": (0.1, 1e6), "truncated?": (0.1, 10), "which n?": (1e-4, 1000), "one sign?": (0.1, 1e8)}


def step(terms, mean, variance, square, common):
    """A sum of so many terms: its mean square, and that part of it which all units have in common."""
    drift = (terms * mean) ** 2 * common
    return terms * variance * square + drift, variance * square + drift


def theory(law, widths):
    """rms of the pre-activation at every hidden layer; rms of the gradient there, relative to the last one."""
    mean, variance = law(widths[-1], 1)
    keep = 1 if mean else 1 / 2  # what ReLU leaves
    layers, up, down = list(pairwise(widths)), [], [1.0]
    common = 2 / np.pi  # of x
    for n, m in layers:
        square, common = step(n, *law(n, m), keep * up[-1] if up else 1, common)
        up.append(square)
    common = mean**2 / (mean**2 + variance)  # of the gradient at the last hidden layer
    for n, m in layers[:0:-1]:
        square, common = step(m, *law(n, m), down[0], common)
        down.insert(0, keep * square)
    return np.sqrt(up), np.sqrt(down)


def measure(scheme, widths):
    """The same two ladders as ``theory``, averaged over several networks."""
    squares = []
    for seed in range(SEEDS):
        model = models.mlp([*widths, 1], "relu", init=scheme, seed=seed)
        report = lab.probe(model.to(DEVICE), x[:, : widths[0]], y, loss=MEAN)
        up, down = np.array(report.ladder("rms")), np.array(report.ladder("delta_rms"))
        squares.append((up**2, (down / down[-1]) ** 2))
    return np.sqrt(np.mean(squares, axis=0))


# %% [markdown]
# ## Run
# What the laws look like, in units of He's σ = √(2/n).

# %%
fig, axes = plt.subplots(1, 4, figsize=(12, 2.9), sharey=True, layout="constrained", facecolor="white")
for ax, (_, name, scheme, _) in zip(axes, (CASES[i] for i in (7, 2, 3, 8)), strict=True):
    weights = scheme((500, 500), fan_in=500, fan_out=500, rng=np.random.default_rng(0)).ravel() / np.sqrt(2 / 500)
    ax.hist(weights, np.linspace(-3, 3, 81), density=True, color="#0072B2")
    ax.set(xlabel=f"w / σ: mean {abs(weights.mean()):.2f}, rms {np.linalg.norm(weights) / 500:.2f}", title=name)
fig.savefig("laws.png", dpi=120)

# %% [markdown]
# Lines: measured. Pale bands: the two lines of algebra. (The loss is the one output itself, so that δ has one sign.)

# %%
ladders = []
fig, axes = plt.subplots(2, 4, figsize=(13, 6.4), sharex=True, layout="constrained", facecolor="white")
for (top, bottom), (question, limits) in zip(axes.T, LIMITS.items(), strict=True):
    widths = FUNNEL if question == "which n?" else SQUARE
    rows = [(name, measure(scheme, widths), theory(law, widths)) for q, name, scheme, law in CASES if q == question]
    for i, ax in enumerate((top, bottom)):
        lines, bands = ({row[0]: row[which][i] for row in rows} for which in (1, 2))
        lab.plot_ladders(lines, ax, limits, bands)
    ladders += rows
    top.set(title=question, xlabel="")
    top.legend(frameon=False, fontsize=9)
axes[0][0].set_ylabel("signal: rms of the pre-activation")
axes[1][0].set_ylabel("gradient there / gradient at layer 10")
fig.savefig("ladders.png", dpi=120)

# %% [markdown]
# ## Check
# Per layer the variance reading gives (n/2)^¼ = 3.36, the cut 0.88, one sign 0.723 √(2n) = 16.4. "The network's n" is
# one std for all layers, √(2/794) = 0.0502: the law for which the article claims 65 % when it calls it "one Gaussian".

# %%
claims = {"as std": "a good start", "as variance": "a good start", "Kaiming": "recommended"}
rows, error = [], np.sqrt(5 * sum(1 / n for n in FUNNEL) / SEEDS) / 9 / 2
for name, found, ideal in ladders:
    ends = [[lab.change_per_layer(list(line)) for line in (up, down[::-1])] for up, down in (ideal, found)]
    texts = [f"x{up:.3g} up, x{down:.3g} down" for up, down in ends]
    rows.append((f"{name}: rms per layer", claims.get(name, ""), *texts))
    assert np.allclose(*np.log(ends), atol=5 * error), f"{name}: {texts[1]}; mean and variance of a weight: {texts[0]}"
model = models.mlp([*SQUARE, 1], "tanh", init=init.as_written_kaiming("tanh"), seed=0).to(DEVICE)
records = lab.probe(model, x[:, :256], y, loss=MEAN).records
saturated = np.mean([record["saturated"] for record in records if record["kind"] == "Tanh"])
rows.append(("Kaiming for tanh: units saturated", "recommended", "100%", f"{saturated:.0%}"))
print(table([dict(zip(("what", "claimed", "predicted", "measured"), row, strict=True)) for row in rows]))
assert saturated > 0.99, "n weights of one sign push every tanh to its flat end"
print("check: passed")

# %% [markdown]
# ## Exercise
# Six people wrote he_normal for a 5×5 convolution, 6 to 16 channels, n = 150, m = 400: below is their std over He's.
# Which formula did each use? (One forgot the kernel, one drew ±σ.) Then write yours: `minidl course handout A2 a2`.

# %%
my_answers = {0.612: None, 0.707: None, 0.577: None, 5.0: None, 2.943: None, 0.1155: None}  # 0.612: np.sqrt(2 / 400)
for ratio, std in my_answers.items():
    found = ratio if std is None else std / np.sqrt(2 / 150)
    assert abs(found / ratio - 1) < 0.01, f"no: this would be {found:.3f} times He's std, not {ratio}"
    print(f"{ratio} times He's std:", "?" if std is None else "right")
plt.show()
