"""What Ray's core, which is not Python, writes on this process's terminal."""

from __future__ import annotations

import ctypes
import os

FATAL = 3


def quieten() -> None:
    """Let Ray's core write in this process only what ends the process; call it once connected.

    Its errors reach the program as exceptions; the lines mean nothing to a user ("constructor
    arguments in the object store", "metrics exporter agent"), and Ray has no setting for the
    terminal alone. ``RAY_BACKEND_LOG_LEVEL``, where it is set, counts instead: it holds for every
    process of a cluster, and Ray announces it in a line of its own.
    """
    if os.environ.get("RAY_BACKEND_LOG_LEVEL"):
        return
    import ray._raylet

    core = ctypes.CDLL(ray._raylet.__file__)
    try:
        threshold = ctypes.c_int.in_dll(core, "_ZN3ray6RayLog19severity_threshold_E")
    except ValueError:  # another version of Ray: then there are some lines more
        return
    threshold.value = FATAL
