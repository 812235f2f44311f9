"""Make the pages of this folder: run each experiment (or go on with it), then copy its page, figures and numbers here.

    python docs/results/make.py                # all of them: some hours on two cores
    python docs/results/make.py article depth  # these
    python docs/results/make.py --list         # the commands

What is under way lies in ``build/results`` and survives an interruption. Needs MNIST, CIFAR-10 and, for the last one,
photographs of ImageNet: see ``minidl data list``.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = Path("build/results")  # relative: the command stands on the page

#: The arguments of ``minidl compare`` behind every page.
RUNS = {
    "article": "--preset article --optimizers adam:1e-3",
    "article-momentum": "--preset article --optimizers momentum:1e-2 --train-images 10000 --epochs 2",
    "losses": "--preset losses --train-images 10000 --epochs 2",
    "activations": "--preset activations --reduced --schemes zeros 'N(0, 0.01²)' 'Glorot uniform' He",
    "depth": "--preset depth --train-images 5000 --epochs 2",
    "architectures": "--preset architectures --reduced --no-norm --schemes 'Glorot uniform' He",
    "architectures-norm": "--preset architectures --norm --schemes He --train-images 10000 --epochs 3",
    "imagenet": "--preset imagenet",
}


def command(name: str) -> list[str]:
    """What runs an experiment, or goes on with the one under way."""
    started = sorted((ROOT / WORK / name).glob("*/grid.json"))
    if started:
        return ["compare", "--resume", str(started[-1].parent.relative_to(ROOT))]
    return ["compare", *shlex.split(RUNS[name]), "--out", (WORK / name).as_posix()]


def main() -> int:
    """Run and copy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}; default: all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    asked = parser.parse_args()
    unknown = set(asked.names) - RUNS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(RUNS)}")
    for name in asked.names or RUNS:
        if asked.list:
            print(f"minidl compare {RUNS[name]}")
            continue
        print(f"== {name}", flush=True)
        arguments = [*command(name), "--jobs", str(asked.jobs)]
        code = subprocess.run([sys.executable, "-m", "minidl", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
        if code.returncode:
            return code.returncode
        publish(name)
    return 0


def publish(name: str) -> None:
    """Copy page, figures and numbers of a finished experiment."""
    (found,) = (ROOT / WORK / name).glob("*/results.md")
    target = HERE / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in [found, found.with_name("results.json"), *found.parent.glob("*.png")]:
        shutil.copy(file, target / ("README.md" if file == found else file.name))


if __name__ == "__main__":
    sys.exit(main())
