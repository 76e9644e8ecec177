"""Packages of others on Python's path, as pip leaves them: modules beside their metadata."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contextbench.system import plugins

HEAD = "from heads.fcn import FCNHead\n\n\nclass Plain(FCNHead):\n    pass\n"


class Packages:
    """A folder on Python's path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def module(self, name: str, source: str = HEAD) -> Path:
        """A file `name`, which may have folders: `a/b.py`."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        self.forget()
        return path

    def install(
        self, name: str, entries: dict[str, str], group: str = "contextbench.heads"
    ) -> None:
        """Metadata of a distribution, version 1.2, with entry points."""
        about = self.folder / f"{name.replace('-', '_')}-1.2.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = [f"[{group}]", *(f"{entry} = {place}" for entry, place in entries.items())]
        (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
        self.forget()

    def forget(self) -> None:
        """What this process knows of them: as a new one begins."""
        for function in (plugins.installed, plugins.loaded, plugins.sources_digest):
            function.cache_clear()
        plugins._named.clear()
        for name, module in [*sys.modules.items()]:
            spec = getattr(module, "__spec__", None)
            places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
            if any(place and Path(place).is_relative_to(self.folder) for place in places):
                del sys.modules[name]
        importlib.invalidate_caches()


@contextmanager
def packages(folder: Path) -> Iterator[Packages]:
    """For a block, after which nothing of them is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.setattr(sys, "dont_write_bytecode", True)  # files change within a second
        found = Packages(folder)
        found.forget()
        yield found
        found.forget()
