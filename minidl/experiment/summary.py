"""From stored cells to tables: cells that differ in the seed alone are one group, with mean and standard deviation."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minidl.experiment.grid import AXES, label
from minidl.text import grouped, keys, table

__all__ = [
    "Group",
    "caption",
    "flat",
    "groups",
    "markdown",
    "percent",
    "plus_minus",
    "rows",
    "text_table",
    "varying",
    "word",
]

Records = Sequence[Mapping[str, Any]]

#: Images of the published sets: (training, test). What is here may be a part of them.
PUBLISHED = {"mnist": (60_000, 10_000), "fashion-mnist": (60_000, 10_000), "cifar10": (50_000, 10_000)}
TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "imagenet": "ImageNet"}
MEASURES = ("test_accuracy", "test_loss", "train_accuracy", "train_loss")


@dataclass(frozen=True)
class Group:
    """Cells that differ in the seed alone.

    Args:
        settings: of the cells, but for the seed.
        results: what was stored of each.
    """

    settings: Mapping[str, Any]
    results: tuple[Mapping[str, Any], ...]

    def values(self, key: str) -> list[float]:
        """One number per seed; nan where the network had left the range of float32, nothing where none trained."""
        found = [result[key] for result in self.results if key in result]
        return [math.nan if value is None else float(value) for value in found]

    def mean(self, key: str) -> float:
        """Over seeds; nan without any."""
        values = self.values(key)
        return statistics.fmean(values) if values else math.nan

    def sd(self, key: str) -> float:
        """Sample standard deviation over seeds; nan for fewer than two."""
        values = self.values(key)
        return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan

    @property
    def diverged(self) -> int:
        """How many of the cells met a value that is not finite."""
        return sum(result.get("diverged_at_step") is not None for result in self.results)

    @property
    def verdict(self) -> str:
        """The word of all seeds, or each word with its number."""
        words = Counter(result["verdict"] for result in self.results)
        return ", ".join(words) if len(words) == 1 else ", ".join(f"{word} {n}" for word, n in words.most_common())


def groups(records: Records) -> list[Group]:
    """The groups, in the order in which their first cells come."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for record in records:
        settings = {name: value for name, value in record["cell"].items() if name != "seed"}
        found.setdefault(tuple(settings.items()), []).append(record["result"])
    return [Group(dict(settings), tuple(results)) for settings, results in found.items()]


def varying(records: Records) -> list[str]:
    """The axes on which the cells differ, in the order of ``AXES``."""
    return [axis for axis in AXES if len({record["cell"][axis] for record in records}) > 1]


def flat(records: Records) -> list[dict[str, Any]]:
    """One flat record per cell, for an analysis of one's own: settings, final numbers, where it diverged."""
    keys = ("initial_loss", "rms", "signal", "gradient", *MEASURES, "steps", "diverged_at_step", "diverged_layer")
    return [
        {**r["cell"], **{key: r["result"].get(key) for key in (*keys, "verdict", "weights_sha256")}}
        | {"seconds": r["how"]["seconds"], "date": r["how"]["date"]}
        for r in records
    ]


def rows(records: Records) -> list[dict[str, str]]:
    """The table: a line per group, its axes that vary and the scheme in words, its numbers as mean ± s.d."""
    axes = [axis for axis in varying(records) if axis != "scheme"]
    return [
        {axis: word(axis, group.settings[axis]) for axis in (*axes, "scheme")} | _numbers(group)
        for group in groups(records)
    ]


def _numbers(group: Group) -> dict[str, str]:
    """Of networks that were trained, what they reached; of others, what the probe found."""
    if not group.values("test_accuracy"):
        factors = {f"{key} ×/layer": _short(group.mean(key)) for key in ("rms", "signal", "gradient")}
        return {"initial loss": plus_minus(group.mean("initial_loss"), group.sd("initial_loss")), **factors}
    found = {}
    for key in MEASURES:
        show = percent if key.endswith("accuracy") else plus_minus
        found[key.replace("_", " ")] = show(group.mean(key), group.sd(key))
    return found | {"diverged": f"{group.diverged} of {len(group.results)}", "verdict": group.verdict}


def _short(value: float) -> str:
    return "not finite" if math.isnan(value) else f"{value:.3g}"


def word(axis: str, value: Any) -> str:
    """A setting as tables and figures name it."""
    if axis == "norm":
        return "batch norm" if value else "no norm"
    return label(value) if axis == "scheme" else str(value)


def text_table(records: Records) -> str:
    """The table for a terminal: 100 columns are not enough for all, so without the losses on the training images."""
    lines = rows(records)
    hidden = {"train loss"} if any(group.diverged for group in groups(records)) else {"train loss", "diverged"}
    return table(lines, [name for name in keys(lines) if name not in hidden])


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table."""
    if not lines:
        return "nothing yet"
    names = keys(lines)  # of all: networks that were not trained have others
    body = [[str(line.get(name, "")).replace("|", "\\|") for name in names] for line in lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (names, ["---"] * len(names), *body))


def percent(mean: float, sd: float = math.nan) -> str:
    """Shares as "98.92 ± 0.08 %"."""
    if math.isnan(mean):
        return "not finite"
    return f"{100 * mean:.2f} %" if math.isnan(sd) else f"{100 * mean:.2f} ± {100 * sd:.2f} %"


def plus_minus(mean: float, sd: float = math.nan, digits: int = 3) -> str:
    """A loss as "0.031 ± 0.002"; a huge one as "1.53e+27 ± 2.5e+26"."""
    if math.isnan(mean):
        return "not finite"
    kinds = (".3g", ".2g") if abs(mean) >= 1e5 else (f".{digits if abs(mean) < 100 else 0}f",) * 2
    return f"{mean:{kinds[0]}}" if math.isnan(sd) else f"{mean:{kinds[0]}} ± {sd:{kinds[1]}}"


def caption(records: Records, short: bool = False) -> str:
    """What was used, in words: images, network, epochs, batch, seeds; ``short`` leaves out what the numbers are."""
    cells = [record["cell"] for record in records]
    if not cells:
        return "No cell is finished yet."
    pictures = _unique(_pictures(record) for record in records)
    seeds = sorted({cell["seed"] for cell in cells})
    length = _unique(_length(r["cell"]) for r in records if r["result"]["verdict"] != "not trained")
    common = {axis: cells[0][axis] for axis in AXES if axis not in varying(records)}
    shared = [
        word(axis, common[axis]) for axis in ("network", "norm", "activation", "loss", "optimizer") if axis in common
    ]
    batch = _unique(f"batch {cell['batch_size']}" for cell in cells)
    said = [*pictures, *shared, *length, *batch, f"seeds {', '.join(map(str, seeds))}"]
    return "; ".join(said) + ("" if short else ". Numbers are means ± standard deviation over the seeds.")


def _pictures(record: Mapping[str, Any]) -> str:
    name, images = record["cell"]["dataset"], record["result"]["images"]
    title = TITLES.get(name, name)
    training, testing = PUBLISHED.get(name, (images["of"], images["test"]))
    if record["result"]["verdict"] == "not trained":
        return f"{title}: {_count(images['train'], images['of'])} photographs, probed and not trained"
    used = f"{_count(images['train'], training)} {title} training images"
    return f"{used}, {_count(images['test'], testing)} test images"


def _count(some: int, whole: int) -> str:
    return f"all {grouped(some)}" if some == whole else f"{grouped(some)} of {grouped(whole)}"


def _length(cell: Mapping[str, Any]) -> str:
    unit = "epochs" if cell["steps"] is None else "steps"
    return f"{cell[unit]} {unit if cell[unit] != 1 else unit[:-1]}"


def _unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
