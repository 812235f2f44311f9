"""Words for people: error messages, tables, plain signs for old terminals, progress, JSON.

Standard library only, so that ``minidl doctor`` can speak before NumPy is installed.
"""

import codecs
import math
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from numbers import Integral, Real
from time import monotonic
from typing import IO, Any, TypeVar

__all__ = ["grouped", "keys", "open_output", "plain", "progress", "say", "table", "to_json", "unknown"]

T = TypeVar("T")

NOTE_EVERY = 0.5  # seconds between two looks at what a progress bar shows besides the count
WIDTH = 100  # columns of a terminal, of a log file, of a mail

# What an encoding cannot write becomes one of these; the first that fits, so σ² stands before σ.
PLAIN = dict(
    pair.split("=", 1)
    for pair in (
        "σ²=var ²=^2 ³=^3 σ=s µ=u μ=u α=a β=b γ=g δ=d ε=e η=n λ=l π=pi φ=phi χ=chi ∂=d ∇=grad ∑=sum Σ=sum √=sqrt ∞=inf "
        "±=+- ×=x ·=* ÷=/ −=- –=- —=- ≈=~ ≠=!= ≤=<= ≥=>= ≪=<< ≫=>> ∈=in →=-> ←=<- ↔=<-> ↑=^ ↓=v ↦=-> …=... "
        '✓=ok ✔=ok ✗=!! ✕=!! ✘=!! ⚠=! °=deg •=* “=" ”=" „=" ‘=\' ’=\' ─=- │=| ├=| └=` '
        "▁=_ ▂=. ▃=, ▄=- ▅== ▆=+ ▇=* █=#"
    ).split()
)


def unknown(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is not known: it suggests the nearest one and lists them all.

    Args:
        kind: what the name stands for, "scheme" or "activation".
        name: what was asked for.
        known: the names that would have been right.

    Returns:
        A ValueError to raise: ``unknown scheme 'he_norml'; did you mean 'he_normal'? known: …``.
    """
    import difflib  # here, so that importing minidl stays quick

    names = sorted(known)
    by_lower_case = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1)
    hint = f"; did you mean {by_lower_case[near[0]]!r}?" if near else ";"
    return ValueError(f"unknown {kind} {name!r}{hint} known: {', '.join(names) or 'none'}")


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | Mapping[str, str] | None = None) -> str:
    """Rows as fixed-width text of at most 100 columns: numbers to the right with three digits, words to the left.

    Args:
        rows: one mapping per line; a missing key or None leaves its cell empty.
        columns: the keys to show, in order; a mapping ``{key: heading}`` names them. Default: those of the first row.

    Returns:
        A heading, a rule and one line per row, without a line end after the last.
    """
    records = list(rows)
    headings = _headings(records, columns)
    cells = [[_cell(record.get(key)) for key in headings] for record in records]
    right = [_is_numeric([record.get(key) for record in records]) for key in headings]
    widths = _fit([max(map(len, column)) for column in zip(headings.values(), *cells, strict=True)])
    lines = [list(headings.values()), ["-" * width for width in widths], *cells]
    return "\n".join(_line(line, widths, right) for line in lines)


def keys(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all rows, in the order in which they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


def grouped(number: int) -> str:
    """A number with spaces between its thousands: ``61 706``."""
    return f"{number:,}".replace(",", " ")


def _headings(records: list[Mapping[str, Any]], columns: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    if columns is None:
        columns = list(records[0]) if records else []
    return dict(columns) if isinstance(columns, Mapping) else {key: key for key in columns}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"{float(value):.3g}"
    return " ".join(str(value).split())


def _is_numeric(values: list[Any]) -> bool:
    return all(value is None or (isinstance(value, Real) and not isinstance(value, bool)) for value in values)


def _fit(widths: list[int]) -> list[int]:
    """Take from the widest column until the line fits; two spaces stand between columns."""
    widths = list(widths)
    while sum(widths) + 2 * (len(widths) - 1) > WIDTH and max(widths) > 3:
        widths[widths.index(max(widths))] -= 1
    return widths


def _line(cells: list[str], widths: list[int], right: list[bool]) -> str:
    padded = (_pad(*cell) for cell in zip(cells, widths, right, strict=True))
    return "  ".join(padded).rstrip()


def _pad(cell: str, width: int, on_right: bool) -> str:
    clipped = cell if len(cell) <= width else cell[: width - 1] + "…"
    return clipped.rjust(width) if on_right else clipped.ljust(width)


def plain(text: str) -> str:
    """The text in ASCII: ``σ² ≤ 1 ✓`` becomes ``var <= 1 ok``, an accent is dropped, anything else is a ``?``."""
    for sign, substitute in PLAIN.items():
        text = text.replace(sign, substitute)
    without_accents = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(without_accents).encode("ascii", "replace").decode("ascii")


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """A codec error handler: what the encoding lacks is written in plain signs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return plain(error.object[error.start : error.end]), error.end


codecs.register_error("minidl.plain", _substitute)


def open_output(stream: IO[str]) -> None:
    """Make printing to ``stream`` safe: a sign its encoding lacks is written plainly instead of raising.

    A stream that cannot be reconfigured (one held in memory, a notebook's) takes every sign and stays as it is.
    """
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="minidl.plain")


def progress(
    items: Iterable[T],
    total: int | None = None,
    label: str = "",
    start: int = 0,
    note: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Yield the items and show how far we are: on stderr, on a terminal only, with tqdm's bar where tqdm is installed.

    Args:
        items: what to walk over.
        total: how many there are; default ``len(items)`` where it has a length.
        label: one word in front of the bar.
        start: how many of ``total`` were done before the first of ``items``.
        note: what else to show, such as the loss; asked twice a second at most, for the answer may take time.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not sys.stderr.isatty():
        yield from items
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield from _count(items, total, label, start, note)
        return
    with tqdm(total=total, desc=label, initial=start, leave=False, file=sys.stderr, ascii=None) as bar:
        due = monotonic() + NOTE_EVERY
        for item in items:
            yield item
            if note is not None and monotonic() >= due:
                bar.set_postfix_str(note(), refresh=False)
                due = monotonic() + NOTE_EVERY
            bar.update()


def say(line: str) -> None:
    """Print a line on stderr; while a bar of ``progress`` is shown there, above it."""
    if not sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)
        return
    try:
        from tqdm import tqdm
    except ImportError:
        import shutil  # here, so that importing minidl stays quick

        blank = " " * (shutil.get_terminal_size().columns - 1)
        print(f"\r{blank}\r{line}", file=sys.stderr, flush=True)
        return
    tqdm.write(line, file=sys.stderr)  # it takes the bar away and draws it again below


def _count(
    items: Iterable[T], total: int | None, label: str, start: int, note: Callable[[], str] | None
) -> Iterator[T]:
    """The bar without tqdm: one line that overwrites itself twice a second, with the time left, wiped at the end."""
    import shutil  # here, so that importing minidl stays quick

    began, due, longest = monotonic(), 0.0, 0
    width = shutil.get_terminal_size().columns - 1
    try:
        for number, item in enumerate(items, start + 1):
            if (now := monotonic()) >= due:
                line = f"{label} {number}" + ("" if total is None else f"/{total}")
                if number > start + 1:
                    line += "" if note is None else f", {note()}"
                    line += "" if total is None else f", {_left((now - began) / (number - start - 1), total - number)}"
                longest = max(longest, len(line := line[:width]))
                print("\r" + line.ljust(longest), end="", file=sys.stderr, flush=True)
                due = monotonic() + NOTE_EVERY
            yield item
    finally:
        print("\r" + " " * longest + "\r", end="", file=sys.stderr, flush=True)


def _left(seconds_each: float, items: int) -> str:
    minutes, seconds = divmod(round(seconds_each * (items + 1)), 60)
    return f"{minutes}:{seconds:02d} left"


def to_json(value: Any, indent: int | None = 2) -> str:
    """Strict JSON: a NaN or an infinity (a network that died) becomes null; arrays become lists. None: on one line."""
    import json  # here, so that importing minidl stays quick

    return json.dumps(_jsonable(value), indent=indent, ensure_ascii=True, allow_nan=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return _jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
