"""Files of settings: shipped ones by name, any by path, and what is said of mistakes in them."""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from contextbench.config.frozen import FOUND_OUT, Frozen
from contextbench.config.safe_yaml import LARGEST_TEXT, parse_yaml
from contextbench.system.errors import UserError
from contextbench.system.naming import Name
from contextbench.system.reading import exists, given, read_bytes, reason_of, why
from contextbench.system.text import shortened

MOST_FAULTS = 10  # of one file that a message lists
LONGEST_LIST = 3000  # characters
LONGEST_GUESS = 200  # characters of a name that is compared with others
M = TypeVar("M", bound=BaseModel)


class ConfigError(UserError, ValueError):
    """A mistake in a configuration. The message names the file, the key and what is allowed."""


class Named(Frozen):
    """What a file holds that is called by its stem."""

    name: Name


def configs_folder() -> Path:
    """The shipped `configs/`: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def names_in(kind: str) -> list[str]:
    """Names of the shipped files of one kind: `protocols`, `heads` or `tables`."""
    return sorted(path.stem for path in (configs_folder() / kind).glob("*.yaml"))


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The end of an error message: nearest valid name, then all of them."""
    choices = sorted(allowed)
    close = difflib.get_close_matches(name[:LONGEST_GUESS], choices, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(choices) or "nothing"
    return f"{hint}allowed: {shortened(listed, LONGEST_LIST)}"


def find_config(name: str, kind: str, extra: Iterable[str] = ()) -> Path:
    """The shipped file of a kind by name, or any file by path. Raises `ConfigError`."""
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        path = Path(name)
        if not exists(path, Path.is_file):
            raise ConfigError(f"there is no file {shortened(name, LONGEST_LIST)}")
        return path
    if name not in names_in(kind):
        allowed = {*names_in(kind), *extra}
        raise ConfigError(f"unknown {kind[:-1]} {given(name)}; {nearest(name, allowed)}")
    return configs_folder() / kind / f"{name}.yaml"


def read_mapping(path: Path) -> dict[str, Any]:
    """The content of a YAML file. Raises `ConfigError` unless it is a mapping."""
    try:
        content = parse_yaml(read_bytes(path, LARGEST_TEXT).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {why(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys, found {type(content).__name__}")
    return content


def refuse_stated(model: type[BaseModel], content: Any, source: str) -> None:
    """Raise `ConfigError` for keys in a user's `content` that are found out."""
    found_out = {n for n, f in model.model_fields.items() if f.json_schema_extra == FOUND_OUT}
    for name in found_out & {*(content if isinstance(content, Mapping) else ())}:
        hint = nearest(name, _keys(model))
        raise ConfigError(f"{source}: unknown key {name!r}, which records state; {hint}")


def validated(model: type[M], content: Mapping[str, Any], source: str) -> M:
    """`content` as a model. Raises `ConfigError` that names `source`, key and what is allowed."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        items = error.errors()
        lines = [_explain(model, content, item, source) for item in items[:MOST_FAULTS]]
        if len(items) > MOST_FAULTS:
            lines.append(f"{source}: and {len(items) - MOST_FAULTS} more")
        raise ConfigError("\n".join(lines)) from None


def _explain(model: type[BaseModel], content: Mapping[str, Any], item: Any, source: str) -> str:
    location = [str(part) for part in item["loc"]]
    if location[-1:] == ["[key]"]:  # of a mapping, whose name comes before it
        location.pop()
    if not location:
        return f"{source}: {reason_of(item)}"
    key = given(".".join(_as_written(content, location)))
    if item["type"] == "extra_forbidden":
        allowed = _keys_at(model, location[:-1])
        return f"{source}: unknown key {key}; {nearest(location[-1], allowed)}"
    if item["type"] == "missing":
        return f"{source}: key {key} is missing"
    return f"{source}: key {key} is {given(item['input'])}: {reason_of(item)}"


def _as_written(content: Any, location: Sequence[str]) -> list[str]:
    """The keys of `location` that `content` has: a name that it leaves unsaid is none of them."""
    if not location or not isinstance(content, Mapping):
        return list(location)
    first, *rest = location
    if first in content or not rest:
        return [first, *_as_written(content.get(first), rest)]
    return _as_written(content, rest)


def _keys_at(annotation: Any, location: Sequence[str]) -> list[str]:
    """Keys of the model at `location` below a model, or below what a field of one holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not location:
            return _keys(annotation)
        field = annotation.model_fields.get(location[0])
        return [] if field is None else _keys_at(field.annotation, location[1:])
    inner, origin = get_args(annotation), get_origin(annotation)
    if origin in (dict, list, tuple):
        return _keys_at(inner[1 if origin is dict else 0], location[1:]) if location else []
    return next((keys for each in inner if (keys := _keys_at(each, location))), [])


def _keys(model: type[BaseModel]) -> list[str]:
    """Of files: not those that are found out, nor a name, which that of the file stands for."""
    fields = {n: f for n, f in model.model_fields.items() if f.json_schema_extra != FOUND_OUT}
    return [name for name in fields if name != "name" or not issubclass(model, Named)]
