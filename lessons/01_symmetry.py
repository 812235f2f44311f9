# %% [markdown]
# # Symmetry: why not zeros?
# **Goal:** see what a network can learn when all its weights start equal, and say why before you run it.
# **Time:** 25 minutes; the code itself runs for a few seconds.
#
# A network has 64 pixels, two hidden layers of 32 units and 10 classes. It starts from one of three schemes: all
# weights **zero**, all weights **0.1**, or weights drawn from **N(0, 0.1²)**. All biases start at zero, as usual.
# An article that surveys initialization reports 50 % accuracy on ten handwritten digits for all zeros. Can that be?

# %%
import matplotlib.pyplot as plt
import numpy as np

from minidl import data, init, lab, models, ops, optim
from minidl.backend import device_for, to_device
from minidl.text import table

DEVICE, WIDTH, STEPS = device_for(), 32, 50
LAYERS, ACTIVATIONS = ("linear1", "linear2", "output"), ("sigmoid", "tanh", "relu")
SCHEMES = {"zeros": init.zeros(), "constant 0.1": init.constant(0.1), "normal 0.1": init.normal(std=0.1)}
split = data.load("digits")
x, y = to_device(split.train.x, DEVICE), to_device(split.train.y, DEVICE)

# %% [markdown]
# ## Predict
# Write h for the output of a layer and δ for the gradient of the loss at its pre-activation. A weight matrix gets the
# gradient ∂W = δ hᵀ (h from below, δ from above), and δ travels down as Wᵀδ, times the slope of the activation.
# Take a pencil before you read on. **All weights zero:**
#
# 1. tanh(0) = relu(0) = 0. What are h, δ and ∂W in each of the three layers? What can still learn?
# 2. What do you answer to *every* image when only the output bias learns? How often is that right?
# 3. sigmoid(0) = ½. Which ∂W is no longer zero at the first step, which at the second, which at the third?
#
# **All weights 0.1:** all units of a layer compute the same number. What is the rank of the first W after 50 steps?
#
# The answer to 2, in code. A bias alone learns how frequent the classes are, so the network answers with the most
# frequent digit. In these 1 200 training images three digits tie, so we predict a *set* and a range of accuracies.

# %%
counts = split.train.counts()
leaders = np.flatnonzero(counts == counts.max()).tolist()
shares = split.test.counts()[leaders] / len(split.test)
entropy = -np.sum(counts / counts.sum() * np.log(counts / counts.sum()))  # no loss is smaller without the image

# %% [markdown]
# ## Run
# Nine networks, 50 steps of Adam (the optimizer of that article), each on all training images at once. We keep the
# largest element that each weight gradient ever had.


# %%
def run(activation, scheme):
    """Train one network: its weights before and after, its gradients, what it answers to the test images."""
    model = models.mlp([64, WIDTH, WIDTH, 10], activation, init=scheme, seed=0).to(DEVICE)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    found = {"before": model.state_dict(), "gradient": dict.fromkeys(LAYERS, 0.0)}
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = ops.cross_entropy(model(x), y)
        loss.backward()
        for layer, largest in found["gradient"].items():
            found["gradient"][layer] = max(largest, float(abs(getattr(model, layer).weight.grad).max()))
        optimizer.step()
    answers = model(to_device(split.test.x, DEVICE)).numpy().argmax(axis=1)
    found |= {"after": model.state_dict(), "loss": loss.item(), "digits": set(answers.tolist())}
    rank = int(np.linalg.matrix_rank(found["after"]["linear1.weight"], rtol=1e-3))
    return found | {"accuracy": np.mean(answers == split.test.y), "rank": rank}


runs = {(name, activation): run(activation, SCHEMES[name]) for name in SCHEMES for activation in ACTIVATIONS}

# %% [markdown]
# The bars show the largest weight gradient in 50 steps. A **0** is exact: every element, at every step.

# %%
fig, axes = plt.subplots(1, 3, figsize=(11, 3.8), sharey=True, layout="constrained", facecolor="white")
LOOKS = ({"color": "#000000"}, {"color": "#0072B2", "hatch": "///"}, {"color": "#F5B98C"})
for ax, activation in zip(axes, ACTIVATIONS, strict=True):
    for i, (name, look) in enumerate(zip(SCHEMES, LOOKS, strict=True)):
        for layer, height in enumerate(runs[name, activation]["gradient"].values()):
            place = layer + 0.27 * (i - 1)
            ax.bar(place, height, 0.25, edgecolor="white", label=name if layer == 0 else None, **look)
            if height == 0:
                ax.text(place, 1.2e-6, "0", ha="center", weight="bold")
    ax.set(title=activation, yscale="log", ylim=(1e-6, 1), xticks=range(3), xticklabels=("W1", "W2", "W3 (output)"))
axes[0].set_ylabel("largest |gradient| of a weight")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
fig.savefig("gradients.png", dpi=120)

# %% [markdown]
# The maps show the cosine between the weights of any two units of a layer. All bright: all point the same way.

# %%
shown = [("zeros", "tanh"), ("zeros", "sigmoid"), ("constant 0.1", "tanh"), ("normal 0.1", "tanh")]
fig, axes = plt.subplots(4, 4, figsize=(8.6, 7.6), layout="constrained", facecolor="white")
for row, key in zip(axes, shown, strict=True):
    row[0].set_ylabel(", ".join(key), fontsize=11)
    for ax, (layer, when) in zip(row, [(n, w) for n in LAYERS[:2] for w in ("before", "after")], strict=True):
        image = lab.IdentityMatrix.from_weight(runs[key][when][f"{layer}.weight"]).image(ax)
        ax.set_title(f"W{layer[-1]} {when} training" if key == shown[0] else "", fontsize=11)
fig.colorbar(image, ax=axes, shrink=0.5, label="cosine between two units")
fig.savefig("cosines.png", dpi=120)

# %% [markdown]
# ## Check
# On MNIST the most frequent training digit is the 1 (6 742 of 60 000), and 1 135 of its 10 000 test images are ones
# (LeCun, Cortes, Burges, *The MNIST database*). Zeros with tanh or ReLU get **11.35 %** there; 50 % is impossible.

# %%
dead, sigmoid, same, drawn = (runs[key] for key in shown)
rows = [
    ("zeros, tanh: largest gradient of a weight", "", "0", f"{max(dead['gradient'].values()):.3g}"),
    ("zeros, tanh: digits answered", "", f"one of {leaders}", sorted(dead["digits"])),
    ("zeros, tanh: test accuracy", "50 %", f"{shares.min():.2%} to {shares.max():.2%}", f"{dead['accuracy']:.2%}"),
    ("the same on MNIST", "50 %", "11.35%", "not run here"),
    ("zeros, tanh: loss (entropy of the classes)", "", f"{entropy:.4f}", f"{dead['loss']:.4f}"),
    ("zeros, sigmoid: rank of W1", "", "1", str(sigmoid["rank"])),
    ("constant 0.1, tanh: rank of W1", "", "1", str(same["rank"])),
    ("normal 0.1, tanh: rank of W1", "", str(WIDTH), str(drawn["rank"])),
    ("normal 0.1, tanh: test accuracy", "", "over 90 %", f"{drawn['accuracy']:.2%}"),
]
print(table([dict(zip(("what", "claimed", "predicted", "measured"), row, strict=True)) for row in rows]))
for activation in ("tanh", "relu"):
    zeros = runs["zeros", activation]
    assert max(zeros["gradient"].values()) == 0, f"W = 0 and {activation}(0) = 0, so h = 0, W'd = 0, and dW = d h' = 0"
    assert len(zeros["digits"]) == 1, "only the output bias learns, and it sees no image: one digit for all of them"
    assert zeros["digits"] <= set(leaders), "a bias learns how frequent the digits are, so a most frequent one wins"
    assert zeros["accuracy"] == np.mean(split.test.y == min(zeros["digits"])), (
        "one answer: right where it happens to fit"
    )
assert min(sigmoid["gradient"].values()) > 0, "sigmoid(0) = 1/2: W3 learns at once, then W2, then W1"
assert sigmoid["loss"] < entropy - 0.1, "with sigmoid zeros do learn something: the loss goes below the entropy"
for key in (("zeros", "sigmoid"), *(("constant 0.1", activation) for activation in ACTIVATIONS)):
    assert runs[key]["rank"] == 1, f"{key}: equal units get equal gradients, so W1 keeps rank 1: a net of width one"
assert drawn["rank"] == WIDTH and drawn["accuracy"] > 0.9, "drawn weights differ: every unit learns its own thing"
print("check: passed")

# %% [markdown]
# ## Exercise
# 1. Prove on paper that with tanh and zero weights ∂W = 0 at *every* step: the output bias changes, what stays zero?
# 2. Keep all weights zero, but draw the *biases*: N(0, 0.5²). Is tanh still stuck? Predict the rank of W1 after 50
#    steps (0, 1, or 2 for "two or more"), write it down here, and run the cell again.

# %%
my_rank = None
if my_rank is not None:
    found = run("tanh", {"*": init.zeros(), "*.bias": init.normal(std=0.5)})
    assert my_rank == min(found["rank"], 2), f"no: the rank is {found['rank']}; follow tanh(b) through the three layers"
    print(f"right: rank {found['rank']}, test accuracy {found['accuracy']:.1%}. Why is it enough to draw the biases?")
plt.show()
