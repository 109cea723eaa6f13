"""Read by every Python that starts with this folder on its path: makes the tests' experts loadable.

Nothing is imported for it: only where ``enecg.experts`` looks for its files is changed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


class _WithExtraExperts(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "enecg.experts":
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.submodule_search_locations is not None:
            folder = Path(__file__).parent.parent / "extra_experts"
            spec.submodule_search_locations.append(str(folder))
        return spec


sys.meta_path.insert(0, _WithExtraExperts())
