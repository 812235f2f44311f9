"""Write ``cupy_names.json``: every public name of the installed CuPy with its parameters. Run by hand, needs no GPU.

    python tests/strict/make_cupy_names.py

The strict library reads the file, so that it knows what CuPy has without having CuPy.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("cupy_names.json")

# `**kwargs` in the signature, spelled out in the docstring
SPELLED_OUT = {
    "pad": "(array, pad_width, mode=..., *, stat_length=..., constant_values=..., end_values=..., reflect_type=...)",
    "einsum": "(*operands, dtype=..., optimize=...)",
}


def parameters(thing: Any, name: str) -> str | None:
    """The parameters of a function as text, every default as ``...``; None if neither signature nor docstring tells."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return _from_docstring(thing, name)
    return "(" + ", ".join(_listed(list(signature.parameters.values()))) + ")"


def _listed(members: list[inspect.Parameter]) -> list[str]:
    out: list[str] = []
    keyword_only = False
    for p in members:
        if p.kind is p.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            out += ["*"] if not any(m.kind is m.VAR_POSITIONAL for m in members) else []
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        out.append(stars + p.name + ("" if p.default is p.empty else "=..."))
    return out


def _from_docstring(thing: Any, name: str) -> str | None:
    """Compiled functions name their parameters in the first line: ``_ndarray_base.sum(self, axis=None, ...)``."""
    found = re.match(rf"(?:\w+\.)*{re.escape(name)}\((.*)\)(?:\s*->.*)?$", (thing.__doc__ or "").partition("\n")[0])
    if found is None:
        return None
    members = []
    for part in filter(None, (part.strip() for part in found[1].split(","))):
        declared, default, _ = part.partition("=")
        members.append(declared.split()[-1] + ("=..." if default else ""))
    return "(" + ", ".join(members) + ")"


def described(owner: Any, skip: str = "_") -> dict[str, str | None]:
    """What every public name of ``owner`` is: "(parameters)", "ufunc 2", "class", "module", "value"; None if untold."""
    import cupy

    found: dict[str, str | None] = {}
    for name in sorted(n for n in dir(owner) if not n.startswith(skip)):
        thing = getattr(owner, name)
        if name in SPELLED_OUT:
            found[name] = SPELLED_OUT[name]
        elif isinstance(thing, cupy.ufunc):
            found[name] = f"ufunc {thing.nin}"
        elif isinstance(thing, cupy._core._gufuncs._GUFunc):
            found[name] = parameters(type(thing).__call__, name).replace("(self, ", "(")  # type: ignore[union-attr]
        elif inspect.isclass(thing):
            found[name] = "class"
        elif inspect.ismodule(thing):
            found[name] = "module"
        elif callable(thing):
            found[name] = parameters(thing, name)
        else:
            found[name] = "value"
    return found


def names() -> dict[str, Any]:
    """The whole content of the file."""
    import cupy

    return {
        "version": cupy.__version__,
        "cupy": described(cupy),
        "cupy.linalg": described(cupy.linalg),
        "cupy.random": described(cupy.random),
        "ndarray": described(cupy.ndarray),
        "Generator": described(cupy.random.Generator),
        "ufunc": described(cupy.ufunc),
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(names(), indent=1) + "\n", encoding="utf-8")
