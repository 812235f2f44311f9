"""What a GPU needs on this machine: the NVIDIA driver, and the CuPy wheel that fits it. Standard library only."""

import ctypes
import ctypes.util
import re
import shutil
import subprocess
import sys

__all__ = ["advice", "driver_cuda_version"]


def advice(cuda: tuple[int, int] | None) -> str:
    """What to install for a driver that serves this CUDA version (None: no driver was found)."""
    if cuda is None:
        return "Install the NVIDIA driver of a GPU first; without one minidl computes on the CPU."
    if cuda[0] < 12:
        return "CuPy needs a driver for CUDA 12 or newer: update the NVIDIA driver."
    wheel = "cupy-cuda12x" if cuda[0] == 12 else "cupy-cuda13x"
    return f'To compute on the GPU: python -m pip install "{wheel}[ctk]"'


def driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA (major, minor) that the installed NVIDIA driver serves; None without a driver."""
    return _version_from_library() or _version_from_nvidia_smi()


def _version_from_library() -> tuple[int, int] | None:
    name = "nvcuda.dll" if sys.platform == "win32" else ctypes.util.find_library("cuda") or "libcuda.so.1"
    number = ctypes.c_int()
    try:
        if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return (number.value // 1000, number.value % 1000 // 10) if number.value else None


def _version_from_nvidia_smi() -> tuple[int, int] | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        answer = subprocess.run([program], capture_output=True, timeout=10, check=True, text=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else None
