# %% [markdown]
# # The article's experiment, honestly
# **Goal:** repeat the experiment of a survey article, predict what can be predicted, and say which conclusions hold.
# **Time:** 40 minutes; the code itself runs for about 25 seconds.
#
# The article trains LeNet-5 (ReLU, cross-entropy, Adam, five epochs) on MNIST and reports test accuracies: all zeros
# **50 %**, "all parameters from one Gaussian" **65 %**, Xavier with n = 784 and m = 10 more than **88 %**. We
# trained it on all 60 000 images, three seeds a scheme: the results are stored below. Here it runs on fewer images.

# %%
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from minidl import data, init, lab, models, optim, train
from minidl.backend import device_for, to_device
from minidl.meanfield import zero_init_accuracy
from minidl.text import table

DEVICE, FAST = device_for(), os.environ.get("MINIDL_FAST") == "1"
IMAGES, EPOCHS = (1000, 3) if FAST else (5000, 5)
RUNS = [  # scheme, claimed %, measured % on 60 000 images, its standard deviation, initializer if it runs here too
    ("zeros", 50, 11.35, 0.00, init.zeros()),
    ("constant 0.1", None, 19.34, 0.68, init.constant(0.1)),
    ("N(0, 0.001²)", 65, 98.23, 0.14, None),
    ("N(0, 0.01²)", 65, 98.65, 0.09, init.normal(std=0.01)),
    ("N(0, 0.05²)", 65, 98.71, 0.35, None),
    ("N(0, 0.1²)", 65, 98.67, 0.19, None),
    ("N(0, 1)", 65, 93.15, 1.28, init.normal(std=1.0)),
    ("article: Xavier(784, 10)", 88, 98.77, 0.20, None),
    ("Glorot uniform", None, 98.92, 0.16, init.glorot_uniform()),
    ("He", None, 98.58, 0.27, init.he_normal()),
    ("He truncated", None, 98.68, 0.22, None),
    ("article: √(2/n) is σ²", None, 94.89, 0.97, init.as_written_gaussian(second_argument="variance")),
    ("article: Kaiming", None, 92.86, 1.41, init.as_written_kaiming()),
]


def images():
    """MNIST where its files are on this machine, else the digits that come with minidl, enlarged to 28×28."""
    if data.is_here("mnist"):
        full = data.load("mnist")
        few = full.train.subset(np.arange(0, 60000, 60000 // IMAGES))
        return replace(full, train=few, test=full.test.subset(np.arange(0, 10000, 10)))
    small, enlarge = data.load("digits", normalize=False), data.transforms.resize(28)
    test = enlarge(small.test.x), small.test.y
    return data.from_arrays(enlarge(small.train.x)[:IMAGES], small.train.y[:IMAGES], test)


split = images()
SOURCE = "MNIST" if split.name == "mnist" else "the embedded digits, enlarged to 28×28: not MNIST"
print(f"here: {len(split.train)} training images of {SOURCE}, {EPOCHS} epochs, one seed")

# %% [markdown]
# ## Predict
# 1. **Zeros.** By lesson 1 only the output bias learns. 1 135 of MNIST's 10 000 test images are ones, and the ones are
#    the most frequent in training. Which accuracy is it? For how many classes would it be 50 %?
# 2. **A constant.** All units of a layer stay equal: a network of width 1. Can one number tell ten digits apart?
# 3. **65 % and 88 %.** Which std does Xavier with n = 784 and m = 10 give? What do you expect of N(0, 0.05²), then?
# 4. **He "needs nothing per layer".** LeNet-5 has fan_in 25, 150, 400, 120, 84. Which five σ does He's recipe give?
# 5. By lesson 4 a network this shallow forgives much, and Adam divides each gradient by its own size. So which schemes
#    will fail on 60 000 images in five epochs? Which on the few images here?

# %%
zero = zero_init_accuracy(split.train.y, split.test.y)  # a set of digits where several are about equally frequent
expected = {
    "zeros": f"11.35; here {100 * zero.low:.4g} to {100 * zero.high:.4g}",
    "N(0, 0.05²)": "std 0.05 in all five",
    "article: Xavier(784, 10)": f"std {np.sqrt(2 / (784 + 10)):.4f} in all five",
    "He": "std " + " ".join(f"{np.sqrt(2 / n):.3f}" for n in (25, 150, 400, 120, 84)),
}

# %% [markdown]
# ## Run


# %%
def run(scheme):
    """A LeNet-5 of this scheme: measured before training, trained, asked for all test images."""
    model = models.lenet5("relu", init=scheme, in_shape=(1, 28, 28), seed=0).to(DEVICE)
    report = lab.probe(model, *split.train[:128])
    history = train.fit(model, split, optimizer=optim.Adam(model.parameters(), lr=1e-3), epochs=EPOCHS, quiet=True)
    answers = set(model(to_device(split.test.x, DEVICE)).numpy().argmax(axis=1).tolist())
    return report, history[-1]["test_accuracy"], answers, model.state_dict()["conv1.weight"]


here = {name: run(scheme) for name, *_, scheme in RUNS if scheme is not None}

# %% [markdown]
# Before training: signal and gradient in the four hidden layers. Where would ten times as many layers take each line?
# (The gradient of the constant is mere rounding: ten equal output weights, and the ten errors of an image sum to 0.)

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", facecolor="white")
for ax, key in zip(axes, ("rms", "delta_rms"), strict=True):
    lab.plot_ladders({name: report.ladder(key) for name, (report, *_) in here.items() if name != "zeros"}, ax)
axes[0].set_ylabel("rms of the pre-activation")
axes[1].set_ylabel("rms of the gradient there")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
fig.savefig("ladders.png", dpi=120)

# %% [markdown]
# After training: crosses as claimed, dots as measured on 60 000 images (± one standard deviation), squares here.

# %%
fig, ax = plt.subplots(figsize=(9, 5.4), layout="constrained", facecolor="white")
names, claimed, measured, deviations, _ = zip(*RUNS, strict=True)
live = [100 * here[name][1] if name in here else None for name in names]
ax.axvspan(100 * zero.low, 100 * zero.high, color="#BBBBBB", label="zeros, predicted here")
ax.plot(claimed, names, "X", color="#D55E00", markersize=9, label="claimed")
ax.errorbar(measured, names, xerr=deviations, fmt="o", color="#000000", label="60 000 MNIST images")
ax.plot(live, names, "s", color="#0072B2", label=f"{len(split.train)} images, here")
ax.set(xlabel="test accuracy in %", xlim=(0, 101), ylim=(len(RUNS) - 0.5, -0.5))
ax.grid(axis="y", color="#DDDDDD", linewidth=0.6)
fig.legend(loc="outside lower center", ncols=4, frameon=False)
fig.savefig("scoreboard.png", dpi=120)

# %% [markdown]
# ## Check
# What a network learns in few steps and what it can learn are two questions. On 60 000 images every scheme without
# symmetry passes 90 %: Adam and 5 layers forgive, 30 do not. The advice, He or Xavier, holds; its numbers do not.

# %%
values = zip(names, claimed, map(expected.get, names), map("{:.2f}".format, measured), live, strict=True)
columns = "test accuracy, %", "claimed", "predicted", "measured", "here"
print(table([dict(zip(columns, row, strict=True)) for row in values]))
(before, zeros, answers, _), (_, constant, _, kernels) = here["zeros"], here["constant 0.1"]
gradients = [record["weight_grad_rms"] for record in before.records if record["weight_grad_rms"] is not None]
assert gradients == [0] * 5, "zero weights: h = 0 and W'd = 0 in every layer, so no weight of the five gets a gradient"
assert answers <= set(zero.classes) and len(answers) == 1, "only the output bias learns: one answer for all images"
assert zero.low <= zeros <= zero.high < 0.5, "the accuracy is the share of the most frequent digit, and never 50 %"
assert np.ptp(kernels, axis=0).max() < 1e-3 and constant < 0.5, "equal kernels get equal gradients, and stay equal"
assert min(here[name][1] for name in ("He", "Glorot uniform")) > 0.7, "He and Glorot learn from few images, too"
assert np.nanmin(abs(np.array(claimed, float) - measured)) > 5, "none of the three claims is what 60 000 images give"
print("check: passed")

# %% [markdown]
# ## Exercise
# The article does not say which σ gave 65 %. Find two, a small and a large one, for which `run` ends between 60 and
# 70 % here, and write to its authors: what has to be said beside "a Gaussian gives 65 %" before anybody can repeat it?

# %%
my_sigma = None
if my_sigma is not None:
    accuracy = run(init.normal(std=my_sigma))[1]
    assert 0.6 < accuracy < 0.7, f"no: sigma {my_sigma} ends at {accuracy:.1%}; look at sigma = 0.01 and sigma = 1"
    print(f"right: {accuracy:.1%} after {EPOCHS} epochs of {len(split.train)} images. And with ten times as many?")
plt.show()
