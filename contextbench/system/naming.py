"""Names that become folders and files: one component of a path, whatever a file says. No torch."""

from typing import Annotated

from pydantic import AfterValidator

LONGEST_NAME = 128  # characters
LONGEST_BYTES = 200  # of UTF-8; file systems allow 255, with what is put around the name


def checked_name(name: str) -> str:
    """`name`. Raises ValueError unless it can be the name of a folder, and of nothing else."""
    if not name or name != name.strip() or name.startswith("."):
        raise ValueError(
            "it becomes a folder: it must not be empty nor begin with a dot or a space"
        )
    if not name.isprintable() or "/" in name or "\\" in name:
        raise ValueError("it becomes a folder: it must be printable, without / and \\")
    if len(name) > LONGEST_NAME or len(name.encode()) > LONGEST_BYTES:
        raise ValueError(f"it becomes a folder: it must have at most {LONGEST_NAME} characters")
    return name


Name = Annotated[str, AfterValidator(checked_name)]
"""Of a protocol, a head, a table or an ablation."""
