"""Memory of this process in MB: what is resident now, and the peak. NaN where the system does not tell."""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path


def resident():
    """What is resident now; without /proc the peak until now."""
    return _status("VmRSS") or _usage()


def peak():
    """The most that was resident since ``forget_peak``, or since the start where it cannot be forgotten."""
    return _status("VmHWM") or _usage()


def forget_peak():
    """Let the peak begin anew at what is resident now (Linux only)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(key):
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), None)


def _usage():
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
