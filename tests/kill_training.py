"""``kill -9`` at random moments of a training run; the run that is gone on with each time ends with the same bits.

    python tests/kill_training.py --kills 20

A child process trains with ``train.Checkpoint``. The parent kills it at moments drawn from a seed, starts it again
until it is done, and compares with a run that nobody disturbed. Half of the moments are anywhere; the others lie inside
a checkpoint write: there the child halts before one of its arrays, before the data go to the disk or before the
renaming, until it is killed. On Windows ``TerminateProcess`` takes the place of the signal.
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

#: Where a child is killed: anywhere after a step, or inside a write, and how often it gets there in one.
ANYWHERE = ("step", 1)
INSIDE = [("array", 20), ("sync", 1), ("rename", 1)]


# ------------------------------------------------------------------------------------------------------------ the child


class Mouth:
    """Says aloud what the child does, and halts it after so many steps where it says ``event`` for the nth time."""

    def __init__(self, steps: int, event: str, times: int) -> None:
        self.steps, self.event, self.times = steps, event, times

    def say(self, event: str, detail: object = "") -> None:
        print(event, detail, flush=True)
        self.steps -= event == "step"
        if self.steps <= 0 and event == self.event:
            self.times -= 1
            if self.times == 0 and event != "step":
                print("halt", flush=True)
                time.sleep(600)

    def announced(self, function: Any, event: str) -> Any:
        """The function, which says ``event`` first."""

        def call(*args: Any, **options: Any) -> Any:
            self.say(event)
            return function(*args, **options)

        return call


def child(checkpoint: str | None, final: str, epochs: int, mouth: Mouth) -> None:
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
    callbacks: list[Any] = [SimpleNamespace(on_step=lambda run: mouth.say("step", run.step))]
    if checkpoint is not None:
        np.lib.format.write_array = mouth.announced(np.lib.format.write_array, "array")
        os.fsync = mouth.announced(os.fsync, "sync")
        os.replace = mouth.announced(os.replace, "rename")
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
    mouth.say("done")


# ----------------------------------------------------------------------------------------------------------- the parent


@dataclass
class Life:
    """One process, from its start to its death: its last step, and whether it was in a write then."""

    step: int
    killed: bool
    in_a_write: bool


Moment = tuple[int, str, int]  # after so many steps, at this event, for the nth time


def start(checkpoint: Path | None, final: Path, epochs: int, moment: Moment | None) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", str(final), "--epochs", str(epochs)]
    command += [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    command += [] if moment is None else ["--moment", *map(str, moment)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


def live(checkpoint: Path, final: Path, epochs: int, moment: Moment | None = None, delay: float = 0.0) -> Life:
    """Let a process live until its moment comes, or to its end."""
    process, step, steps, done = start(checkpoint, final, epochs, moment), 0, 0, False
    assert process.stdout is not None
    for line in process.stdout:
        said, _, detail = line.strip().partition(" ")
        done = said == "done"
        if said == "step":
            step, steps = int(detail), steps + 1
        if said == "halt" or (moment is not None and moment[1] == "step" and steps >= moment[0]):
            time.sleep(delay)
            process.kill()
            break
    process.stdout.close()
    code = process.wait()
    if not done and moment is None:
        raise RuntimeError(f"the child ended with code {code} after step {step}")
    return Life(step, code != 0, bool(list(checkpoint.parent.glob(f"{checkpoint.name}.*.part"))))


def series(kills: int, seed: int, folder: Path, report: Any = print) -> str:
    """Kill a training run ``kills`` times; a sentence on how it ended.

    Raises:
        AssertionError: a checkpoint was damaged, or a bit differs in the end.
    """
    from minidl.train import archive

    epochs = 3 + kills  # long enough for all of them
    rng, checkpoint, final = np.random.default_rng(seed), folder / "run.npz", folder / "final.npz"
    undisturbed = start(None, folder / "reference.npz", epochs, None)
    undisturbed.communicate()
    assert undisturbed.returncode == 0, "the run that nobody disturbed failed"
    lives: list[Life] = []
    for number in range(1, kills + 1):
        event, most = INSIDE[rng.integers(len(INSIDE))] if number % 2 else ANYWHERE
        moment = (int(rng.integers(1, 9)), event, int(rng.integers(1, most + 1)))
        life = live(checkpoint, final, epochs, moment, delay=float(rng.uniform(0, 0.01)))
        assert life.killed, f"kill {number} came too late: the run was over"
        lives.append(life)
        saved = archive.read(checkpoint)["run"]["step"] if checkpoint.exists() else 0
        where = f"before {event} {moment[2]} of a write" if event != "step" else "anywhere"
        where += ", a part of a file left behind" if life.in_a_write else ""
        report(f"kill {number:2d}: after step {life.step}, {where}; goes on from step {saved}")
        assert life.step - saved <= EVERY + 1, f"more than {EVERY} steps were lost"
    live(checkpoint, final, epochs)
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
    parser.add_argument("--moment", nargs=3, default=(0, "", 0), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        steps, event, times = asked.moment
        child(asked.checkpoint, asked.child, asked.epochs, Mouth(int(steps), event, int(times)))
        return
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        print(series(asked.kills, asked.seed, Path(folder)))


if __name__ == "__main__":
    main()
