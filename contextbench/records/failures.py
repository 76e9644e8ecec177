"""Why a run or a measurement has no numbers."""

import re
import textwrap

from contextbench.records.stored import Stored
from contextbench.system.text import printable

LONGEST_MESSAGE = 400  # characters of an error's message that had several lines


class Failure(Stored):
    """Why a run or a measurement has no numbers."""

    kind: str  # class of the error
    message: str
    detail: str | None = None  # the error's own words where the message is shorter

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        text = printable(str(error))
        line = _one_line(text)
        detail = None if line == text.strip() else text
        return cls(kind=type(error).__name__, message=line, detail=detail)

    @property
    def cause(self) -> str:
        """On one line."""
        return " ".join(f"{self.kind}: {self.message}".split())


def _one_line(text: str) -> str:
    """An error's text on one line; of a traceback in it, as worker processes send, what it ends in.

    A longer text, such as a list of keys, is cut.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return text.strip()
    if any(line.startswith("Traceback (") or "Original Traceback" in line for line in lines):
        return re.sub(r"^(\w+\.)*\w+(Error|Exception): ", "", lines[-1])
    return textwrap.shorten(" ".join(lines), LONGEST_MESSAGE, placeholder=" ...")
