"""Reading files that come from elsewhere: bounded, and refused in one short line. No torch."""

import json
import math
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from contextbench.system.text import one_line, printable, shortened

LARGEST_FILE = 64 * 2**20  # bytes of text that are read; the largest file of a comparison has 2 MiB
LARGEST_INTEGER = 2**63 - 1  # which counts are stored in
MOST_VALUES = 10**7  # in one file
DEEPEST = 32  # levels of lists and mappings within each other; records have 8
LONGEST_VALUE = 80  # characters of a value in a message
LONGEST_REASON = 300


def exists(path: Path, kind: Callable[[Path], bool] = Path.exists) -> bool:
    """Whether there is a file of this name; a name that no file can have is one that there is not.

    `kind` may be `Path.is_file` or `Path.is_dir`. The three raise for names that are too long, and
    for characters that no name has.
    """
    try:
        return kind(path)
    except (OSError, ValueError):
        return False


def read_bytes(path: Path, limit: int = LARGEST_FILE) -> bytes:
    """The content of a regular file. Raises OSError or ValueError; the latter above `limit`."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    return content


def read_json(path: Path) -> Any:
    """JSON whose numbers are finite and at most 64 bits, and that is not nested too deeply.

    Raises OSError where there is no such file, ValueError with one line for other content.
    """
    return parse_json(read_bytes(path))


def parse_json(content: bytes | str) -> Any:
    """`content` as `read_json` takes it. Raises ValueError."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(
            text,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_refused,
            object_pairs_hook=_mapping,
        )
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    check_plain(value)
    return value


def check_plain(value: Any, limit: int = MOST_VALUES) -> None:
    """Raises ValueError for values that JSON does not have or this code does not bear.

    Those are other types, numbers that are not finite or have more than 64 bits, text that is no
    Unicode, lists within each other without end, and more than `limit` values in all.
    """
    level, left = [value], limit
    for _ in range(DEEPEST):
        left -= len(level)
        for each in level:
            _check_leaf(each)
        inside = [_inside(each) for each in level]
        if sum(map(len, inside)) > left:
            raise ValueError(f"it has more than {limit} values")
        level = [inner for each in inside for inner in each]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def why(error: Exception) -> str:
    """The reason of an error, on one short line."""
    if isinstance(error, ValidationError):
        first, *others = error.errors(include_url=False)
        more = f", and {len(others)} more" if others else ""
        return shortened(explained(first), LONGEST_REASON) + more
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte {error.start})"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shortened(" ".join(one_line(" ".join(text.split())).split()), LONGEST_REASON)


def explained(item: Mapping[str, Any]) -> str:
    """One entry of `ValidationError.errors()`: key, reason and what was given."""
    key = ".".join(str(part) for part in item["loc"])
    reason = reason_of(item)
    if not key or item["type"] == "missing":
        return " ".join(f"{one_line(key)}: {reason}".removeprefix(": ").split())
    return " ".join(f"{one_line(key)} is {given(item['input'])}: {reason}".split())


def reason_of(item: Mapping[str, Any]) -> str:
    """What such an entry says is wrong, printable."""
    return printable(str(item["msg"]).removeprefix("Value error, "))


def given(value: Any) -> str:
    """What was given, for a message: short and printable."""
    try:
        return shortened(one_line(repr(value)), LONGEST_VALUE)
    except (ValueError, RecursionError):  # integers of thousands of digits, lists in themselves
        return f"a {type(value).__name__}"


PLAIN = (str, bool, int, float, list, tuple, dict, type(None))
TOO_DEEP = f"it is nested deeper than {DEEPEST} levels"


def _integer(text: str) -> int:
    # Python refuses to read thousands of digits, with a message about its own settings.
    if len(text) > 20 or abs(value := int(text)) > LARGEST_INTEGER:
        raise ValueError(f"the integer {shortened(text, LONGEST_VALUE)} has more than 64 bits")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {shortened(text, LONGEST_VALUE)} is not finite")
    return value


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _mapping(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {given(twice)} occurs twice")
    return found


def _check_leaf(value: Any) -> None:
    if not isinstance(value, PLAIN):
        raise ValueError(f"{given(value)} is a {type(value).__name__}, no plain value: quote it")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the number {value} is not finite")
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise ValueError("an integer has more than 64 bits")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the text {given(value)} is no Unicode") from None
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"the key {given(key)} is no text")
            _check_leaf(key)


def _inside(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list | tuple) else ()
