"""Every data set has a card that says what its reader must know."""

import re

import pytest

from minidl import data
from minidl.data.registry import entry
from minidl.files import folder


def card(name):
    return (folder("datasets") / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", data.names())
def test_a_card_names_source_licence_splits_checksums_and_citation(name):
    text = card(name)
    assert text.startswith(f"# {name}\n")
    for word in ("Source", "Licence", "SHA-256|Checksums", "[Ss]plit", "## Citation", r"training|train/"):
        assert re.search(word, text), f"the card of {name} says nothing of {word}"


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_a_card_prints_the_checksums_sizes_and_mirrors_that_the_code_uses(name):
    for file in entry(name).files.downloads:
        assert f"| `{file.name}` | {file.size} | `{file.md5}` | `{file.sha256}` |" in card(name)
        assert len(file.mirrors) >= 2
        assert all(f"`{mirror}`" in card(name) for mirror in file.mirrors)
        assert re.fullmatch("[0-9a-f]{32}", file.md5) and re.fullmatch("[0-9a-f]{64}", file.sha256)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "imagenet"])
def test_a_card_prints_the_mean_and_standard_deviation_that_the_code_uses(name):
    module = __import__(f"minidl.data.sets.{name.replace('fashion-', '')}", fromlist=["source"])
    numbers = {"mnist": (0.1307, 0.3081), "fashion-mnist": (0.2860, 0.3530)}.get(name) or (*module.MEAN, *module.STD)
    assert all(f"{number:.4f}".rstrip("0") in card(name) for number in numbers)


def test_there_is_no_card_without_a_set():
    cards = {path.stem for path in folder("datasets").glob("*.md")} - {"README"}
    assert cards == set(data.names())
