"""Make the gallery: every figure of the laboratory, the lines that make it, and what to see in it.

    python docs/gallery/make.py                       # all of them: two minutes on one core
    python docs/gallery/make.py signal_ladder cobweb  # these, and the page

The page shows the functions below as they are: their docstrings as text, their lines as code.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image  # comes with matplotlib

from minidl import data, init, lab, models, optim, threads, train
from minidl.experiment.advice import Task, rate_windows

HERE = Path(__file__).resolve().parent
COLOURS = 256  # of a picture: with a palette it takes less space
GALLERY: dict[str, Callable[[], Any]] = {}

rng = np.random.default_rng(0)
x = rng.standard_normal((256, 256), dtype=np.float32)
y = rng.integers(10, size=256)


def shown(function: Callable[[], Any]) -> Callable[[], Any]:
    """Into the gallery."""
    GALLERY[function.__name__] = function
    return function


@shown
def signal_ladder() -> Any:
    """The house figure: one look says what happens on the way up, on the way down, what theory expects, and how bad.

    Glorot's weights under ReLU: both the signal and the gradient lose a factor of √½ = 0.707 at every layer. Pale lines
    are theory for infinite width, the grey band holds 90 % of the networks of this width. Thirty layers are too many:
    L·|ln χ| above 16 stalls.
    """
    model = models.mlp([256] * 31 + [10], "relu", "glorot_normal")
    return lab.SignalLadder.from_report(lab.probe(model, x, y), lab.predict(model, x))


@shown
def two_curves() -> Any:
    """Why the ladder has two lines for the signal: the rms of a sigmoid network looks perfect, and the network is dead.

    All inputs give the same output after ten layers. Only the spread over inputs, and the gradient, say so.
    """
    model = models.mlp([256] * 11 + [10], "sigmoid", "glorot_normal")
    return lab.SignalLadder.from_report(lab.probe(model, x, y), lab.predict(model, x))


@shown
def gradient_twins() -> Any:
    """The gradient of the pre-activations falls on its way down; that of the weights is level, and small throughout.

    Uniformly too small gradients are what Adam divides away and SGD does not: Adam hides a bad start.
    """
    model = models.mlp([256] * 31 + [10], "relu", "glorot_normal")
    return lab.GradientTwins.from_report(lab.probe(model, x, y))


@shown
def ridgeline() -> Any:
    """Outputs of tanh layers with the gain 5/3. Black: a Gaussian of the predicted variance, pushed through tanh.

    Five per cent of saturated outputs are normal here; in brackets what theory says.
    """
    model = models.mlp([256] * 9 + [10], "tanh", init.glorot_normal(gain=5 / 3))
    report = lab.probe(model, x, y, histograms=True)
    return lab.Ridgeline.from_report(report, lab.predict(model, x))


@shown
def phase_diagram() -> Any:
    """Where is my network? A tanh network trains between the two contours of its own depth, around the edge of chaos.

    This one is too far on the side of chaos for its fifty layers: neighbouring inputs part, gradients explode.
    """
    model = models.mlp([256] * 50 + [10], "tanh", init.glorot_normal(gain=1.8))
    return lab.PhaseDiagram.from_prediction(lab.predict(model, x), depths=(10, 20))


@shown
def cobweb() -> Any:
    """Layer by layer on the map: up to the curve, across to the diagonal.

    Left, the variance of tanh with gain 5/3 finds its fixed point 1.18 within ten layers. Right, the correlation of two
    inputs under He and ReLU creeps to 1, as 44/l²: inputs become alike, but slowly.
    """
    fig = Figure(figsize=(10.5, 5), layout="constrained")
    left, right = fig.subplots(1, 2)
    lab.Cobweb.variance("tanh", sigma_w=5 / 3, start=0.05, depth=15).plot(ax=left)
    lab.Cobweb.correlation("relu", sigma_w=2**0.5, start=0.0, depth=20).plot(ax=right)
    return fig


@shown
def spectrum() -> Any:
    """Singular values of the Jacobian of two linear networks: independent weights spread them, orthogonal ones do not.

    The mean square stays 1 in both. But of the Gaussian network the median falls as theory says (pale), so that most
    directions of the input are lost; the values of the orthogonal one are all exactly 1.
    """
    fig = Figure(figsize=(11, 4.4), layout="constrained")
    laws = {"lecun_normal": "gaussian", "orthogonal": "orthogonal"}
    for ax, (name, law) in zip(fig.subplots(1, 2), laws.items(), strict=True):
        model = models.mlp([64] * 16, "identity", name)
        report = lab.probe(model, x[:8, :64], y[:8], jacobian=True)
        report.title = name
        lab.Spectrum.from_report(report, law).plot(ax=ax)
    return fig


@shown
def identity_matrix() -> Any:
    """Who is who: the cosine between any two units. Zeros have no direction, constants are copies of one unit.

    Copies learn alike and stay copies; half alike they start with half of their freedom.
    """
    schemes = {"zeros": init.zeros(), "constant": init.constant(0.1), "correlation 0.5": init.correlated_normal(0.5)}
    schemes |= {"He": init.he_normal(), "orthogonal": init.orthogonal()}
    fig = Figure(figsize=(11, 2.6), layout="constrained")
    axes = fig.subplots(1, 5)
    for ax, (name, scheme) in zip(axes, schemes.items(), strict=True):
        layer = models.mlp([256, 48, 10], init={"linear1.weight": scheme, "output*": "he_normal"}).linear1
        image = lab.IdentityMatrix.from_weight(layer.weight).image(ax)
        ax.set_title(name)
    fig.colorbar(image, ax=axes, label="cosine")
    return fig


@shown
def before_after() -> Any:
    """What LSUV does to weights that all come from N(0, 0.05²): it finds the scale of He by itself, layer by layer.

    The first layer has no ReLU before it, so it ends at 1.
    """
    model = models.mlp([256, 512, 128, 400, 100, 300, 10], "relu", init.normal(std=0.05))
    return lab.BeforeAfter.from_model(model, lambda m: init.lsuv(m, x), "LSUV")


@shown
def scoreboard() -> Any:
    """What an article claims of LeNet-5 on MNIST (hollow), what theory predicts (tick), and three seeds, measured.

    Fifty per cent for zeros is impossible: only the output's bias learns, which gives the share of the most frequent
    digit, 11.35 %. The axis is logarithmic in the errors.
    """
    runs = json.loads((HERE.parent / "results" / "article" / "results.json").read_text(encoding="utf-8"))["records"]
    said = {"zeros": (0.50, (0.1135, 0.1135)), "normal(std=0.05)": (0.65, None), "glorot_uniform": (0.88, None)}
    rows = []
    for scheme, (claimed, predicted) in {**said, "he_normal": (None, None)}.items():
        values = [r["test_accuracy"] for r in runs if r["scheme"] == scheme]
        rows.append(lab.Score(scheme, values, claimed=claimed, predicted=predicted))
    return lab.Scoreboard(rows, "LeNet-5 on MNIST, Adam, 5 epochs")


@shown
def rate_ribbon() -> Any:
    """Which learning rates train five ReLU layers: the longer a ribbon, the more forgiving the start.

    A ribbon is as thick as the accuracy; the ring marks the best rate.
    """
    task = Task(dataset="digits", train_images=1000, val_images=200, steps=100, seeds=(0,))
    found = rate_windows(task, rates=(1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 1.0))
    return lab.RateRibbon.from_records(found.records, title="digits, 100 steps, 5 hidden ReLU layers of width 100")


@shown
def training_heatmap() -> Any:
    """PyTorch's weights under tanh: at first hardly anything reaches the deeper layers, which thirty steps make up for.

    From then on the layers saturate, the first one first. Colour: the share of the outputs in a bin. White: 5, 50 and
    95 % lie below.
    """
    model = models.mlp([64] + [100] * 5 + [10], "tanh", "torch_default")
    watching = lab.watch(model, every=10)
    sgd = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train.fit(model, data.load("digits"), optimizer=sgd, epochs=8, callbacks=[watching], quiet=True)
    layers = ["tanh1", "tanh3", "tanh5", "output"]
    return lab.TrainingHeatmap.from_records(watching.histograms, watching.records, layers)


def main() -> int:
    """Make what was asked for, and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(GALLERY)}; default: all")
    names = parser.parse_args().names
    wrong = set(names) - GALLERY.keys()
    if wrong:
        parser.error(f"unknown: {', '.join(sorted(wrong))}; there are {', '.join(GALLERY)}")
    for name in names or GALLERY:
        print(name, flush=True)
        write(name)
    (HERE / "README.md").write_text(page(), encoding="utf-8")
    return 0


def write(name: str) -> None:
    """One picture."""
    with threads.limited(1):  # these networks are too small for more
        made = GALLERY[name]()
    buffer = io.BytesIO()
    (made if isinstance(made, Figure) else made.figure()).savefig(buffer, dpi=100)
    picture = Image.open(buffer).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(HERE / f"{name}.png", optimize=True)


INTRODUCTION = """\
# Gallery

Every figure of `minidl.lab` is an object that computes once and holds its numbers. `plot(ax=None)` draws them into your
axes, or into a new figure, and returns the axes; `figure()` makes a figure outside pyplot; `records` are the numbers as
flat dicts; `save("name.png")`, `.svg` or `.pdf` writes the figure and, beside it, the numbers as CSV. No setting of
matplotlib is changed. The ground is white under any style, and what tells two lines apart is never colour alone: dash,
marker and a name at the line say the same. What is zero, infinite or NaN is marked with a cross at the edge.

The code below needs

```python
import json
from pathlib import Path
import numpy as np
from matplotlib.figure import Figure
from minidl import data, init, lab, models, optim, train
from minidl.experiment.advice import Task, rate_windows

HERE = Path("docs/gallery")
rng = np.random.default_rng(0)
x = rng.standard_normal((256, 256), dtype=np.float32)
y = rng.integers(10, size=256)
```"""


def page() -> str:
    """All figures with their text and their code."""
    parts = [INTRODUCTION]
    for name, function in GALLERY.items():
        title = name.replace("_", " ").capitalize()
        parts += [f"## {title}", inspect.cleandoc(function.__doc__ or "")]
        parts += [f"![{title}]({name}.png)", f"```python\n{_code(function)}\n```"]
    return "\n\n".join([*parts, "Made with `python docs/gallery/make.py`."]) + "\n"


def _code(function: Callable[[], Any]) -> str:
    """The lines after the docstring; the figure gets a name in place of ``return``."""
    body = inspect.getsource(function).split('"""')[2]
    return textwrap.dedent(body.strip("\n")).rstrip().replace("return fig", "fig").replace("return ", "figure = ")


if __name__ == "__main__":
    sys.exit(main())
