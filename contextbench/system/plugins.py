"""Code of other packages, by an entry point's name or as `package.module:Class`. No torch.

A plug-in is imported only where a user asks for it: by name or place on the command line, in a file
given there, or from Python. What is read from records imports nothing but entry points that are
installed and what the user has named in this process (`check_available`).
"""

import ast
import hashlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict

from contextbench.system.errors import UserError
from contextbench.system.naming import checked_name
from contextbench.system.reading import given
from contextbench.system.text import one_line

PLACE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
PRODUCT = ("contextbench", "heads")  # whose version records state: no part of a plug-in's sources


class PluginError(UserError, ValueError):
    """A plug-in that cannot be used. The message names it and the reason."""


class Plugin(BaseModel):
    """Which code a plug-in was, as records state it and runs are compared by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: str  # package.module:Class
    distribution: str | None = None  # that it was installed with
    version: str | None = None
    digest: str | None = None  # SHA-256 of its files; None where it is in none

    def __str__(self) -> str:
        """For messages: where the code is from."""
        if self.distribution is None:
            return self.place
        return f"{self.place} of {self.distribution} {self.version}"


@dataclass(frozen=True)
class Kind:
    """What is plugged in: the group of its entry points, and how messages call one."""

    group: str
    noun: str


HEADS = Kind("contextbench.heads", "head")
DATASETS = Kind("contextbench.datasets", "dataset")

T = TypeVar("T")

_named: set[str] = set()  # places that the user has named in this process


def is_place(text: str) -> bool:
    """Whether `text` has the form `package.module:Class`."""
    return PLACE.fullmatch(text) is not None


def check_place(text: str) -> str:
    """`text`. Raises `PluginError` for one with a colon that names no class."""
    if not is_place(text):
        raise PluginError(
            f"{given(text)}: write package.module:Class, names as Python imports them, without "
            "folders"
        )
    return text


def name_of(place: str) -> str:
    """What a class that is named by its place is called in folders and tables: as in its code."""
    return place.partition(":")[2]


@cache
def installed(kind: Kind) -> dict[str, list[EntryPoint]]:
    """Entry points by name; those of one name and place in one distribution count once."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=kind.group):
        same = found.setdefault(entry.name, [])
        if all(_described(entry) != _described(other) for other in same):
            same.append(entry)
    return found


def entry_place(kind: Kind, name: str, own: Collection[str] = ()) -> str | None:
    """The place of the entry point called `name`, None where there is none.

    `own` are names of this package. Raises `PluginError` where the name is not one path component,
    or where several have it.
    """
    entries = installed(kind).get(name, [])
    if not entries:
        return None
    claims = sorted(_described(entry) for entry in entries)
    if name in own:
        claims.insert(0, f"contextbench's own {kind.noun}")
    if len(claims) > 1:
        raise PluginError(
            f"{given(name)} is the name of {len(claims)} {kind.noun}s: {' and '.join(claims)}. "
            f"Uninstall what is not meant, or name the class: package.module:Class"
        )
    try:
        checked_name(name)
    except ValueError as error:
        raise PluginError(f"the {kind.noun} {given(name)}, {claims[0]}: {error}") from None
    return _value(entries[0])


class Known(NamedTuple, Generic[T]):
    """What can be used, by name, and what is wrong with those that cannot."""

    found: dict[str, T]
    faults: dict[str, str]


def known(
    kind: Kind, own: Mapping[str, T], make: Callable[[str], T], taken: Collection[str] = ()
) -> Known[T]:
    """`own` and what `make` makes of the place of each entry point.

    A faulty one is told, and the others go on. `taken` are names of this package besides.
    """
    found, faults = dict(own), {}
    for name in installed(kind):
        try:
            place = entry_place(kind, name, {*own, *taken})
            assert place is not None
            found[name] = make(place)
        except PluginError as error:
            faults[name] = str(error)
    return Known(found, faults)


def _value(entry: EntryPoint) -> str:
    """Its place, without extras."""
    return entry.value.partition("[")[0].replace(" ", "")


def _described(entry: EntryPoint) -> str:
    owner = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    return f"{_value(entry)}{owner}"


@cache
def loaded(place: str) -> object:
    """What `place` names, imported. Raises `PluginError` with what its code raises."""
    check_place(place)
    module, _, attribute = place.partition(":")
    try:
        found: object = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise PluginError(
                f"{place}: there is no module {error.name}: it is not installed, and not in the "
                f"current folder nor in those of PYTHONPATH"
            ) from None
        raise _failed(place, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(place, error) from error
    sources_digest(module)  # now: files of later are not what this process runs
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise PluginError(f"{place}: {module} has no {given(name)}")
        found = getattr(found, name)
    return found


def _failed(place: str, error: BaseException) -> PluginError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}, line {last.lineno}"
    text = one_line(" ".join(str(error).split()))
    kind = type(error).__name__
    return PluginError(f"{place}: importing it raises {kind}: {text} ({where})")


def identified(kind: Kind, place: str) -> Plugin:
    """Which code `place` is, once it is imported. Raises as `loaded` does."""
    loaded(place)
    module = place.partition(":")[0]
    entries = [e for each in installed(kind).values() for e in each if _value(e) == place]
    owners = [(entry.dist.name, entry.dist.version) for entry in entries if entry.dist]
    if not owners and _root(module) in _shared_folders():
        names = packages_distributions().get(module.partition(".")[0], ())
        owners = [(name, version(name)) for name in names]
    digest = sources_digest(module)
    if not owners and digest is None:
        raise PluginError(f"{place}: neither a distribution nor a file tells which code it is")
    name, number = owners[0] if owners else (None, None)
    return Plugin(place=place, distribution=name, version=number, digest=digest)


def permit(place: str) -> None:
    """Import what the user names; records that this process reads may be of it from now on.

    Its module is looked for where Python does, and then in the current folder. Raises as `loaded`.
    """
    check_place(place)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    loaded(place)
    _named.add(place)


def named(kind: Kind, place: str) -> Plugin:
    """`identified` for the user, who names it, as `permit` has it."""
    permit(place)
    return identified(kind, place)


def check_available(kind: Kind, recorded: Plugin, source: str) -> None:
    """Import what a record at `source` is of, if that is installed or named; else say what to do.

    Raises `PluginError` for other code than the recorded.
    """
    places = {_value(entry) for each in installed(kind).values() for entry in each}
    if recorded.place not in places | _named:
        how = f"install {recorded.distribution} {recorded.version}, or " * bool(
            recorded.distribution
        )
        raise PluginError(
            f"{source}: its {kind.noun} is {recorded}, which is not installed as a plug-in, and "
            f"records import nothing else by themselves: {how}name it: --plugin {recorded.place}"
        )
    check_same(kind, recorded, source)


def check_same(kind: Kind, expected: Plugin, source: str) -> None:
    """Raise `PluginError` unless this process has the code of `expected`."""
    found = identified(kind, expected.place)
    if found.digest == expected.digest and (found.digest or found.version == expected.version):
        return
    raise PluginError(
        f"{source}: its {kind.noun} is {expected}, sources {_short(expected.digest)}; here it is "
        f"{found}, sources {_short(found.digest)}. Restore that code"
    )


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "unknown"


@cache
def sources_digest(module: str) -> str | None:
    """SHA-256 of the file of an imported module and of the files beside it that it imports.

    These are those below the folder that the module was found in: of its package, or of modules
    beside a single file; of packages installed with others, their own only.
    """
    files = dict(sorted(_sources(module).items()))
    if not files:
        return None
    total = hashlib.sha256()
    for name, path in files.items():
        content = path.read_bytes()
        total.update(f"{name} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()


def _sources(module: str) -> dict[str, Path]:
    """Files by the names of their modules."""
    file, root = _file(module), _root(module)
    if file is None or root is None:
        return {}
    found: dict[str, Path] = {}
    only = module.partition(".")[0] if root in _shared_folders() else None
    waiting = [module]
    while waiting:
        name = waiting.pop()
        first = name.partition(".")[0]
        path = file if name == module else _file_of(root, name)
        if path is None or name in found or first in PRODUCT or (only and first != only):
            continue
        found[name] = path
        waiting += [name.rpartition(".")[0]] if "." in name else []
        waiting += _imports(path, name)
    return found


def _file(module: str) -> Path | None:
    """That an imported module is from."""
    file = getattr(sys.modules[module], "__file__", None)
    return Path(file) if file and Path(file).is_file() else None


def _root(module: str) -> Path | None:
    """The folder on Python's path that an imported module was found in."""
    file = _file(module)
    return file and file.parents[module.count(".") + (file.stem == "__init__")]


def _shared_folders() -> set[Path]:
    """Where all that is installed lies."""
    return {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}


def _file_of(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    choices = (base / "__init__.py", base.with_name(f"{base.name}.py"))
    return next((path for path in choices if path.is_file()), None)


def _imports(path: Path, name: str) -> Iterator[str]:
    """Modules that a file may import, those inside functions too."""
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    try:
        tree = ast.parse(path.read_bytes() if path.suffix == ".py" else b"")
    except (SyntaxError, ValueError):  # a neighbour that nobody has imported yet
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from filter(None, [base, *(f"{base}.{a.name}" for a in node.names)])
