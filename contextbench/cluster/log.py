"""What a job's log says in one line."""

import re
from pathlib import Path

TAIL_BYTES = 8192


def last_line(path: Path) -> str:
    """What a job printed last; empty where it has printed nothing."""
    lines = _tail(path).split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def last_error(path: Path) -> str:
    """The first line of the last exception in a log, as `Class: message`; empty without one."""
    found = re.findall(r"^(?:\w+\.)*([A-Z]\w*(?:Error|Exception): .*)$", _tail(path), re.MULTILINE)
    return str(found[-1]) if found else ""


def _tail(path: Path) -> str:
    """The end of a log, empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
