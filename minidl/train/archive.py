"""Trees of numbers and arrays in one file, .npz or .safetensors, written so that a kill at any moment loses nothing.

A tree is nested dicts, lists and tuples of plain values (None, bool, int, float, str) and arrays. In the file an array
is called by its path in the tree, "optimizer/state/0/m"; those under "weights" by the rest of theirs, "conv1.weight",
so that any program that reads the format finds a network's weights under their usual names. All that is no array is
one JSON text: nothing in a file is ever executed.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.backend import MissingCapability, to_host
from minidl.files import replacing

__all__ = ["CheckpointError", "checked_path", "read", "write"]

Arrays = dict[str, NDArray[Any]]

PLAIN = "minidl"  # the name under which the JSON text lies
WEIGHTS = "weights/"
ENDINGS = (".npz", ".safetensors")


class CheckpointError(ValueError):
    """A file that is damaged, is none of ours, or belongs to another run; the message names it."""


def checked_path(path: str | Path) -> Path:
    """``path``, if its ending is one we write and what that needs is installed.

    Raises:
        ValueError: another ending.
        MissingCapability: .safetensors without the package safetensors.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise ValueError(f"a checkpoint is a file .npz or .safetensors; got {path.name!r}")
    if path.suffix == ".safetensors" and importlib.util.find_spec("safetensors") is None:
        raise MissingCapability(
            f'{path.name}: the package safetensors is not installed: python -m pip install "minidl[io]"; '
            "or save as .npz, which needs nothing"
        )
    return path


# ---- tree <-> arrays and text


def _packed(value: Any, name: str, arrays: Arrays) -> Any:
    """``value`` as JSON takes it; its arrays go into ``arrays``, with a note in their place."""
    if hasattr(value, "shape"):
        name = name.removeprefix(WEIGHTS)
        if name in arrays or name == PLAIN:
            raise ValueError(f"two arrays of a checkpoint would be called {name!r}; rename one")
        arrays[name] = np.asarray(to_host(value), order="C")  # ascontiguousarray would give a 0-d array an axis
        return {"array": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, _packed(item, f"{name}/{key}", arrays)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_packed(item, f"{name}/{i}", arrays) for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint holds numbers, texts and arrays; {name} is a {type(value).__name__}")


def _unpacked(value: Any, arrays: Arrays) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "tuple" in value:
        return tuple(_unpacked(value["tuple"], arrays))
    return {key: _unpacked(item, arrays) for key, item in value["dict"]}


# ---- files


def write(path: str | Path, tree: Mapping[str, Any]) -> None:
    """Write ``tree``; until it is complete, a file that was there stays as it was.

    Raises:
        ValueError, TypeError: another ending, or a value that is no number, text or array.
        OSError: the file could not be written (disk full, no permission); the old one is still there.
    """
    path = checked_path(path)
    arrays: Arrays = {}
    text = json.dumps({key: _packed(value, key, arrays) for key, value in tree.items()})
    with replacing(path) as part:
        if path.suffix == ".npz":
            _write_npz(part, arrays | {PLAIN: np.array(text)})
        else:
            _write_safetensors(part, arrays, text)


def _write_npz(part: Path, arrays: Arrays) -> None:
    """What ``np.savez`` writes, but for arrays of any name: its own arguments are keywords too."""
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_safetensors(part: Path, arrays: Arrays, text: str) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(arrays, part, metadata={PLAIN: text})
    except SafetensorError as error:  # a full disk, too, arrives as one
        raise OSError(errno.EIO, str(error)) from error


def read(path: str | Path) -> dict[str, Any]:
    """The tree in a file. A file of arrays alone, such as weights saved by another program, is ``{"weights": arrays}``.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is damaged, or of another kind than its ending says.
    """
    path = checked_path(path)
    try:
        arrays, text = (_read_npz if path.suffix == ".npz" else _read_safetensors)(path)
        if text is None:
            return {"weights": arrays}
        return {key: _unpacked(value, arrays) for key, value in json.loads(text).items()}
    except FileNotFoundError:
        raise
    except Exception as error:  # damage meets the readers in many kinds: bad zip, bad JSON, missing arrays, bad CRC
        raise CheckpointError(
            f"{path} cannot be read: it is damaged, or no checkpoint ({type(error).__name__}: {error}). "
            "Move it away to start anew."
        ) from error


def _read_npz(path: Path) -> tuple[Arrays, str | None]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}  # reading a member checks its CRC
    text = arrays.pop(PLAIN, None)
    return arrays, None if text is None else str(text)


def _read_safetensors(path: Path) -> tuple[Arrays, str | None]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(PLAIN)  # noqa: SIM118
