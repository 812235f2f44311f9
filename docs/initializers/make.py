"""Make the passports of this folder: one page and one figure for every registered scheme, and the index.

    python docs/initializers/make.py                     # all of them: about a second each
    python docs/initializers/make.py he_normal zeros     # these, and the index

Pages of schemes that are no longer registered are removed.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import textwrap
from pathlib import Path

from PIL import Image  # comes with matplotlib

from minidl import init
from minidl.init.registry import entry
from minidl.lab.passport import scheme_passport

HERE = Path(__file__).resolve().parent
COLOURS = 256  # of a figure: with a palette it takes less space
FAMILIES = {
    "constant": "Constants, and laws whose width the user chooses",
    "critical": "Solved for from the activation",
    "structured": "Matrices of a given structure",
    "scaling": "Variance over fan",
    "orthogonal": "Orthogonal",
    "defaults": "What the frameworks do by default",
    "as_written": "As the article wrote them: to be compared with, not to be used",
}


#: What is said of PyTorch and of minidl is tested, one against the other: tests/test_oracle_init.py.
DIFFERENCES = (
    ("", "PyTorch", "Keras 3", "JAX, Flax", "minidl"),
    (
        '"normal" of Glorot, He, LeCun',
        "whole",
        "cut at ±2σ', variance restored (2.0.9: not restored)",
        "cut at ±2σ', variance restored",
        "whole; the cut ones are `*_truncated_normal`",
    ),
    (
        "truncated normal",
        "bounds are absolute numbers, nothing restored",
        "cut in σ, nothing restored",
        "cut in σ, nothing restored",
        "cut in σ', restored; `correct=False`",
    ),
    (
        "dense layer by default",
        "U(±1/√fan_in), bias too: `torch_default`",
        "`glorot_uniform`, bias 0",
        "`lecun_truncated_normal`, bias 0",
        "`he_normal`, bias 0; a model's builder goes by its activation",
    ),
    (
        "`kaiming_uniform`, `he_uniform` assume",
        "leaky ReLU of slope a = 0; its layers call it with √5",
        "ReLU",
        "ReLU",
        "ReLU",
    ),
    ("fan_out of a convolution in g groups", "C_out k²", "C_out k²", "C_out k²", "C_out k²/g"),
    ("fan_in of a transposed convolution", "C_out k²/g", "by the shape", "by the shape", "C_in k²/(s² g)"),
    ("orthogonal convolution", "matrix (out, rest)", "(rest, out)", "as told", "(out, rest), one for every group"),
    ("uniform by default", "[0, 1)", "±0.05", "[0, 0.01)", "±0.05, both ends said"),
    ("gain of tanh, SELU", "5/3, 3/4", "–", "–", '1.5925, 1 (computed; the table: `criterion="torch"`)'),
    (
        "random numbers",
        "one global generator",
        "an integer seed repeats them in every layer",
        "a key for every layer",
        "a stream for every parameter, by its name",
    ),
)


def main() -> int:
    """Make what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: every registered scheme")
    names = [entry(name).name for name in parser.parse_args().names] or init.names()
    for name in names:
        print(name, flush=True)
        write(name)
    for file in [*HERE.glob("*.md"), *HERE.glob("*.png")]:
        if file.stem not in (*init.names(), "README"):
            file.unlink()
    (HERE / "README.md").write_text(index(), encoding="utf-8")
    return 0


def write(name: str) -> None:
    """The page and the figure of one scheme."""
    found = scheme_passport(name)
    (HERE / f"{name}.md").write_text(
        found.page(f"{name}.png") + f"\n[All schemes](README.md) · made with `minidl init show {name}`\n",
        encoding="utf-8",
    )
    buffer = io.BytesIO()
    found.figure().savefig(buffer, dpi=80)
    picture = Image.open(buffer).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(HERE / f"{name}.png", optimize=True)


def index() -> str:
    """All schemes by family, each with its formula."""
    parts = [
        "# Initializers",
        textwrap.fill(
            "Every scheme of `init.names()` has a passport: its formula, the weights of one layer with their law and "
            "singular values, the ladders of signal and gradient through 20 layers of linear, ReLU, tanh and sigmoid "
            "units before training, where it fails, and its source. `minidl init list` lists them; `minidl init show "
            "NAME` makes one for other fans, other parameters or another seed; `python docs/initializers/make.py` "
            "makes this folder.",
            120,
        ),
    ]
    for family, names in itertools.groupby(init.names(), key=lambda name: entry(name).family):
        rows = [f"| [{name}]({name}.md) | `{entry(name).factory().law}` |".replace("|N(", "\\|N(") for name in names]
        rows = [row.replace(")| cut", ")\\| cut") for row in rows]
        parts.append(
            "\n".join([f"## {FAMILIES.get(family, family)}\n", "| scheme | formula |", "| --- | --- |", *rows])
        )
    lines = ["| " + " | ".join(row) + " |" for row in DIFFERENCES]
    lines.insert(1, "| --- " * len(DIFFERENCES[0]) + "|")
    parts.append("## Where the frameworks differ\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
