"""Old import paths for one release: modules that moved are found where they were, with a DeprecationWarning.

Each package calls `redirect` with its own table (old name to new name). Nothing is imported until an old name is asked
for. Delete the tables, and this file, with release 0.3.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Redirect(MetaPathFinder, Loader):
    """Finds a module under its old name and hands out the one with the new name."""

    def __init__(self) -> None:
        self.moved: dict[str, str] = {}
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an old name of the tables, or for a module below one; None for all others.

        A package that moved hands out its new `__path__`, where a module below it would be loaded a second time.
        """
        if fullname not in self.moved:
            package, _, module = fullname.rpartition(".")
            if package not in self.moved or importlib.util.find_spec(f"{self.moved[package]}.{module}") is None:
                return None
            self.moved[fullname] = f"{self.moved[package]}.{module}"
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module with the new name."""
        new = self.moved[spec.name]
        warnings.warn(
            f"'{spec.name}' is now '{new}'; the old name goes with release 0.3",
            DeprecationWarning,
            stacklevel=2,  # the import system's own frames are not counted
        )
        module = importlib.import_module(new)
        self._specs[new] = module.__spec__  # which the import system replaces
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module was executed under its new name, whose spec it keeps."""
        module.__spec__ = self._specs.pop(module.__name__)


_finder = _Redirect()


def redirect(moved: Mapping[str, str]) -> None:
    """Let old names be imported.

    Args:
        moved: Full old module name to full new one; no old name may be that of a present module.
    """
    _finder.moved.update(moved)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)  # before folders that hold nothing but an old __pycache__


def former_names(package: str, module: str) -> Callable[[str], object]:
    """The `__getattr__` of a package that was one module: its public names, with a warning, from where they are now."""

    def find(name: str) -> object:
        if not name.startswith("_"):
            value: object = getattr(importlib.import_module(module), name, None)
            if value is not None:
                message = f"'{package}.{name}' is now '{module}.{name}'; the old name goes with release 0.3"
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                return value
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return find
