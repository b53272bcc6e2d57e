"""Triton's objects for metrics outlive the stub's interpreter: they must not be destroyed.

Destroyed when the interpreter ends, they end the stub with an abort. Destroyed before, they remove the counter in the
server that the next instance of the same version uses too (metric_family.cc counts references for each object and not
for each name), and the server dies of a segmentation fault.
"""

import ctypes
from collections.abc import Iterable
from typing import Any


def keep(objects: Iterable[Any]) -> None:
    """Let these objects live as long as the process."""
    for thing in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
