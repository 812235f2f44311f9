"""``kill -9`` at random moments of a training run; the run that is gone on with each time ends with the same bits.

    python tests/kill_training.py --kills 20

A child process trains with ``train.Checkpoint`` and says on its standard output what it is doing: every step, every
array that it writes into a checkpoint, every renaming. The parent kills it at moments drawn from a seed, some of them
inside a write, starts it again until it is done, and compares with a run that nobody disturbed. On Windows
``TerminateProcess`` takes the place of the signal.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
EVERY = 2  # updates between two checkpoints
STEPS_IN_AN_EPOCH = 10

#: Words of the child after which it is killed, and how often it says each in one write (of a step: once).
MOMENTS = [("array", 20), ("sync", 2), ("rename", 1), ("step", 1)]


# ------------------------------------------------------------------------------------------------------------ the child


def say(event: str) -> None:
    print(event, flush=True)


def talkative() -> None:
    """Let every array and every renaming of a checkpoint be announced, with time to be killed in between."""

    def announced(function: Any, event: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            say(event)
            time.sleep(0.001)
            return function(*args, **options)

        return call

    np.lib.format.write_array = announced(np.lib.format.write_array, "array")
    os.replace = announced(os.replace, "rename")
    os.fsync = announced(os.fsync, "sync")


def child(checkpoint: str | None, final: str, epochs: int) -> None:
    """Train a network with everything a run can carry along, and save what came out."""
    from minidl import data, init, nn, optim, train

    rng = np.random.default_rng(0)
    y = np.arange(110) % 3
    x = (rng.normal(size=(110, 1, 8, 8)) + 0.3 * y[:, None, None, None]).astype(np.float32)
    split = data.from_arrays(x, y, test=15, val=15)
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(96, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3)),
    )
    init.apply(model, seed=0)
    callbacks: list[Any] = [SimpleNamespace(on_step=lambda run: say(f"step {run.step}"))]
    if checkpoint is not None:
        talkative()
        callbacks.append(train.Checkpoint(checkpoint, every=EVERY))
    history = train.fit(
        model,
        split,
        optimizer=optim.Adam(model.parameters(), lr=3e-3),
        epochs=epochs,
        batch_size=8,
        schedule=optim.warmup(10, optim.cosine(STEPS_IN_AN_EPOCH * epochs)),
        clip=1.0,
        early_stopping=epochs,
        transform=data.transforms.chain(data.transforms.random_crop(8, padding=1), data.transforms.random_flip()),
        callbacks=callbacks,
        quiet=True,
    )
    rows = {f"history/{k}": np.array([r[k] for r in history]) for k in history[0] if k != "seconds"}
    np.savez(final, **model.state_dict(), **rows)
    say("done")


# ----------------------------------------------------------------------------------------------------------- the parent


@dataclass
class Life:
    """One process, from its start to its death: the last thing it said, and whether it was in a write then."""

    event: str
    step: int
    killed: bool
    in_a_write: bool


def start(checkpoint: Path | None, final: Path, epochs: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", str(final), "--epochs", str(epochs)]
    command += [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


def live(checkpoint: Path, final: Path, epochs: int, kill_at: tuple[int, str, int] | None, delay: float) -> Life:
    """Let a process live until, after so many steps, it has said ``event`` so many times; then kill it."""
    process = start(checkpoint, final, epochs)
    steps_left, event, times = kill_at or (sys.maxsize, "", 0)
    said, step = "", 0
    assert process.stdout is not None
    for line in process.stdout:
        said = line.strip()
        if said.startswith("step"):
            step, steps_left = int(said.split()[1]), steps_left - 1
        if steps_left <= 0 and said.startswith(event):
            times -= 1
            if times <= 0:
                time.sleep(delay)
                process.kill()
                break
    process.stdout.close()
    code = process.wait()
    if said != "done" and kill_at is None:
        raise RuntimeError(f"the child ended with code {code} after {said!r}")
    left = list(checkpoint.parent.glob(f"{checkpoint.name}.*.part"))
    return Life(said, step, code != 0, bool(left))


def series(kills: int, seed: int, folder: Path, report: Any = print) -> str:
    """Kill a training run ``kills`` times; a sentence on how it ended.

    Raises:
        AssertionError: a checkpoint was damaged, or a bit differs in the end.
    """
    from minidl.train import archive

    epochs = 3 + kills  # long enough for all of them
    rng, checkpoint, final = np.random.default_rng(seed), folder / "run.npz", folder / "final.npz"
    undisturbed = start(None, folder / "reference.npz", epochs)
    undisturbed.communicate()
    assert undisturbed.returncode == 0, "the run that nobody disturbed failed"
    lives: list[Life] = []
    for number in range(1, kills + 1):
        event, most = MOMENTS[rng.integers(len(MOMENTS))]
        moment = (int(rng.integers(1, 9)), event, int(rng.integers(1, most + 1)))
        life = live(checkpoint, final, epochs, moment, delay=float(rng.uniform(0, 0.003)))
        assert life.killed, f"kill {number} came too late: the run was over"
        lives.append(life)
        saved = archive.read(checkpoint)["run"]["step"] if checkpoint.exists() else 0
        where = "inside a write" if life.in_a_write else "between writes"
        report(f"kill {number:2d}: {where}, at step {life.step} (last word {life.event!r}), goes on from {saved}")
        assert life.step - saved <= EVERY + 1, f"more than {EVERY} steps were lost"
    live(checkpoint, final, epochs, None, 0.0)
    left = sorted(p.name for p in folder.iterdir())
    assert left == ["final.npz", "reference.npz", "run.npz"], f"files were left behind: {left}"
    with np.load(final) as ours, np.load(folder / "reference.npz") as truth:
        assert set(ours.files) == set(truth.files)
        different = [name for name in truth.files if ours[name].tobytes() != truth[name].tobytes()]
    assert not different, f"bits differ in {different}"
    inside = sum(life.in_a_write for life in lives)
    return f"{kills} kills, {inside} of them inside a checkpoint write: the same weights and history, bit for bit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.checkpoint, asked.child, asked.epochs)
        return
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        print(series(asked.kills, asked.seed, Path(folder)))


if __name__ == "__main__":
    main()
