"""The files of one data set: found where they may lie, downloaded where they do not, verified on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minidl.data.download import RemoteFile, Unreachable, fetch, writing
from minidl.data.errors import DataError
from minidl.data.lock import locked
from minidl.data.places import download_place, places

__all__ = ["Check", "FileSet"]


@dataclass(frozen=True)
class Check:
    """What ``verify`` says of one file: ``ok`` or not, and why."""

    file: str
    ok: bool
    remark: str


@dataclass(frozen=True)
class FileSet:
    """What has to be known of a data set's files.

    Args:
        name: the name of the data set.
        folders: what the folder of the set may be called inside a place; the first is minidl's own name for it.
        complete: does this folder hold the set, by its structure?
        verify: one ``Check`` a file of a folder that holds the set.
        downloads: the published files; none if the set cannot be downloaded.
        unpack: what to do with the downloads in their folder, if they cannot be read as they are.
        by_hand: what to place by hand, in words, if nothing can be downloaded.
    """

    name: str
    folders: tuple[str, ...]
    complete: Callable[[Path], bool]
    verify: Callable[[Path], Iterator[Check]]
    downloads: tuple[RemoteFile, ...] = ()
    unpack: Callable[[Path], None] | None = None
    by_hand: str = ""

    def find(self, root: Path | None = None) -> Path | None:
        """The first folder that holds the set: ``root`` itself or a folder in it, then the other places.

        Raises:
            DataError: a folder may not be looked into.
        """
        for place in places(root):
            inside = [place / folder for folder in self.folders]
            for candidate in [*inside, place] if place == root else inside:
                try:
                    if self.complete(candidate):
                        return candidate
                except OSError as error:
                    raise DataError(f"{candidate}: cannot be looked into ({error.strerror or error})") from error
        return None

    def get(self, root: Path | None = None) -> Path:
        """The folder that holds the set, after downloading it if it is nowhere.

        One process at a time downloads a set; the others wait, and find it.

        Raises:
            DataError: it is nowhere, and cannot be downloaded; the text names the files to place by hand.
        """
        found = self.find(root)
        if found is not None:
            return found
        folder = download_place(root) / self.folders[0]
        if not self.downloads:
            raise DataError(f"{self.name}: not found. {self._advice(folder, root)}")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f"{self.name}.lock"):
                if not self.complete(folder):
                    self._download(folder, root)
        return folder

    def _download(self, folder: Path, root: Path | None) -> None:
        try:
            for file in self.downloads:
                fetch(file, folder)
        except Unreachable as error:
            raise Unreachable(f"{self.name}: {error}\nNo network here? {self._advice(folder, root)}") from error
        if self.unpack:
            self.unpack(folder)

    def _advice(self, folder: Path, root: Path | None) -> str:
        """What to place where, and where it was looked for."""
        what = self.by_hand or ", ".join(file.name for file in self.downloads)
        looked = ", ".join(str(place) for place in places(root))
        return f"Place by hand in {folder}: {what}. (Looked in {looked}; root=… or MINIDL_DATA name another place.)"
