"""Labelled data: ``load`` a set by name, split in three parts, and read it in standardized float32 batches."""

from minidl.data import transforms
from minidl.data.dataset import Dataset
from minidl.data.errors import DataError
from minidl.data.loader import DataLoader
from minidl.data.part import Part
from minidl.data.registry import Parts, is_here, load, names, register
from minidl.data.split import Split, from_arrays

__all__ = [
    "DataError",
    "DataLoader",
    "Dataset",
    "Part",
    "Parts",
    "Split",
    "from_arrays",
    "is_here",
    "load",
    "names",
    "register",
    "transforms",
]
