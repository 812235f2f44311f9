"""Messages, tables, plain signs, progress, JSON."""

import io
import itertools
import json
import sys

import numpy as np
import pytest

from minidl import text


def printed(encoding: str, words: str) -> str:
    """What a terminal with that encoding shows."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    text.open_output(stream)
    stream.write(words)
    stream.flush()
    return raw.getvalue().decode(encoding)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_an_unknown_name_is_answered_with_the_nearest_one_and_all_known_ones():
    error = text.unknown("scheme", "he_norml", ["glorot_normal", "he_normal"])
    assert isinstance(error, ValueError)
    assert str(error) == "unknown scheme 'he_norml'; did you mean 'he_normal'? known: glorot_normal, he_normal"


def test_a_name_in_the_wrong_case_finds_its_match():
    assert "did you mean 'ReLU'?" in str(text.unknown("activation", "relu", ["ReLU", "Tanh"]))


def test_a_name_like_nothing_known_gets_no_guess():
    assert str(text.unknown("scheme", "qqqq", ["he_normal"])) == "unknown scheme 'qqqq'; known: he_normal"


def test_a_table_puts_numbers_right_and_words_left():
    rows = [{"name": "tanh", "gain": 1.66667, "n": 12345}, {"name": "relu", "gain": np.float32(1.5), "n": 7}]
    assert text.table(rows).splitlines() == [
        "name  gain      n",
        "----  ----  -----",
        "tanh  1.67  12345",
        "relu   1.5      7",
    ]


def test_a_table_takes_its_columns_and_headings_from_the_caller():
    assert text.table([{"a": 1, "b": 2}], {"b": "gain"}).splitlines() == ["gain", "----", "   2"]


def test_a_missing_cell_is_empty_and_a_nan_is_shown():
    lines = text.table([{"a": 1.0, "b": "x"}, {"a": float("nan"), "b": None}, {"b": "y"}]).splitlines()
    assert lines[2:] == ["  1  x", "nan", "     y"]


def test_a_table_without_rows_is_its_heading():
    assert text.table([], ["a", "bc"]).splitlines() == ["a  bc", "-  --"]


@pytest.mark.parametrize("lengths", [(300,), (90, 90), (40, 40, 40, 40)])
def test_no_line_of_a_table_is_wider_than_100_columns(lengths):
    lines = text.table([{str(i): "x" * length for i, length in enumerate(lengths)}]).splitlines()
    assert max(map(len, lines)) == 100
    assert "…" in lines[2]


def test_utf_8_keeps_every_sign():
    assert printed("utf-8", "σ² ≤ 1 ✓ × …") == "σ² ≤ 1 ✓ × …"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", "var <= 1 ok x ... uber ?"),
        ("cp1252", "s² <= 1 ok × … über ?"),
        ("gbk", "σ^2 ≤ 1 ok × … über ?"),
    ],
)
def test_a_sign_the_encoding_lacks_is_written_plainly(encoding, expected):
    assert printed(encoding, "σ² ≤ 1 ✓ × … über ☃") == expected


def test_every_substitute_is_ascii_and_reads_no_substitute_twice():
    for sign, substitute in text.PLAIN.items():
        assert substitute.isascii()
        assert text.plain(sign) == substitute


def test_a_stream_that_cannot_be_reconfigured_is_left_alone():
    stream = io.StringIO()
    text.open_output(stream)
    print("σ²", file=stream)
    assert stream.getvalue() == "σ²\n"


def test_progress_is_silent_where_stderr_is_no_terminal(capsys):
    assert list(text.progress([1, 2, 3], label="runs")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def tick(monkeypatch, seconds):
    """Let the clock go on by so much at every look."""
    clock = itertools.count()
    monkeypatch.setattr(text, "monotonic", lambda: seconds * next(clock))


def test_progress_without_tqdm_counts_on_stderr_and_wipes_its_line(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    tick(monkeypatch, 1)
    assert list(text.progress(iter("abc"), total=3, label="runs")) == ["a", "b", "c"]
    assert "runs 2/3" in terminal.getvalue()
    assert terminal.getvalue().endswith(" \r")
    assert capsys.readouterr().out == ""


def test_progress_with_tqdm_writes_to_stderr_only(monkeypatch, capsys):
    pytest.importorskip("tqdm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(text.progress(range(3), label="runs")) == [0, 1, 2]
    assert "runs" in terminal.getvalue()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("tqdm", [True, False])
def test_progress_shows_the_note_and_asks_for_it_twice_a_second_at_most(tqdm, monkeypatch):
    if tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    terminal, asked = Terminal(), []
    monkeypatch.setattr(sys, "stderr", terminal)
    tick(monkeypatch, 0.01)  # one or two looks per item: 100 items take 1 to 2 seconds
    list(text.progress(range(100), label="epoch", note=lambda: asked.append(1) or "loss 0.5"))
    assert 1 <= len(asked) <= 4
    assert tqdm or "loss 0.5" in terminal.getvalue()  # tqdm draws by its own clock


def test_progress_without_tqdm_says_how_much_time_is_left(monkeypatch):
    """10 seconds an item: after one of ten items nine are left, 1:30."""
    terminal, now = Terminal(), [0]

    def items():
        for i in range(10):
            yield i
            now[0] += 10

    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(text, "monotonic", lambda: now[0])
    list(text.progress(items(), 10, label="epoch"))
    assert "epoch 2/10, 1:30 left" in terminal.getvalue()


@pytest.mark.parametrize("tqdm", [True, False])
def test_progress_counts_what_was_done_before(tqdm, monkeypatch):
    if tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(text.progress("ab", total=7, start=5, label="epoch")) == ["a", "b"]
    assert "6/7" in terminal.getvalue() or "5/7" in terminal.getvalue()


def test_progress_is_lazy():
    seen = []
    walk = text.progress(seen.append(i) or i for i in range(3))
    next(walk)
    assert seen == [0]


def test_json_of_a_dead_network_is_strict_json():
    value = {"a": float("nan"), "b": [np.float32("inf"), (1, True, None)], 3: np.arange(2), "σ": "✓"}
    written = text.to_json(value)
    assert written.isascii()
    assert json.loads(written, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, [1, True, None]],
        "3": [0, 1],
        "σ": "✓",
    }
