"""Files are whole or not there: what readers find when a write fails on its way."""

import errno
import json
import math
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch

from contextbench.system import files
from contextbench.system.files import (
    OutputError,
    ensure_writable,
    quarantine,
    write_atomic,
    write_json,
    write_text,
)

MEBIBYTE = 2**20


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file with content, alone in its folder."""
    path = tmp_path / "record.json"
    path.write_text("old")
    return path


@contextmanager
def file_limit() -> Iterator[None]:
    """The system refuses to let files grow past 64 KiB, halfway through a write as a full disk.

    Not a fixture: what pytest prints before it ends may go to a file that is larger already.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_untouched(old: Path) -> None:
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]  # no temporary file left


def test_replaces_content_and_makes_folders(old: Path) -> None:
    write_text(old, "Größe")
    assert old.read_bytes() == "Größe".encode()
    deep = old.parent / "a" / "b" / "new.txt"
    write_text(deep, "x")
    assert deep.read_text() == "x"
    assert list(deep.parent.iterdir()) == [deep]


def test_written_files_are_readable_by_others(old: Path) -> None:
    """Temporary files are private, what they become is not: results are shared."""
    write_text(old, "new")
    assert old.stat().st_mode & 0o777 == 0o644


def test_readers_see_the_old_file_until_the_new_one_is_complete(old: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"new")
        file.flush()
        assert old.read_text() == "old"

    write_atomic(old, write)
    assert old.read_text() == "new"


def test_a_full_disk_leaves_the_old_file(old: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half of ")
        file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError) as caught:
        write_atomic(old, write)
    assert str(caught.value) == f"cannot write {old}: No space left on device"
    assert_untouched(old)


WRITERS: dict[str, Callable[[BinaryIO], object]] = {
    "bytes": lambda file: file.write(bytes(MEBIBYTE)),
    "numpy": lambda file: np.savez(file, a=np.zeros(MEBIBYTE // 8)),
    "torch": lambda file: torch.save({"a": torch.zeros(MEBIBYTE // 4)}, file),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_that_the_system_cuts_short(old: Path, writer: str) -> None:
    """torch.save hides the system's error behind one of its own."""
    message = r"cannot write .*record\.json: File too large"
    with file_limit(), pytest.raises(OutputError, match=message):
        write_atomic(old, WRITERS[writer])
    assert_untouched(old)


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyboardInterrupt])
def test_other_errors_pass_through(old: Path, error: type[BaseException]) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise error("as it was")

    with pytest.raises(error, match="as it was"):
        write_atomic(old, write)
    assert_untouched(old)


class Signal(BaseException):
    """What a signal's handler raises between two instructions."""


def write_stopped_at(path: Path, instruction: int) -> bool:
    """`write_text`, ended at that instruction of the module; False where it has fewer."""
    left = instruction

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_globals["__name__"] != files.__name__:
            return None
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if left < 0:
            raise Signal
        return trace

    before = sys.gettrace()  # that of a debugger
    try:
        sys.settrace(trace)
        write_text(path, "new")
    except Signal:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the file that was just opened
def test_a_signal_at_any_instruction_leaves_the_old_file_or_the_new_one(old: Path) -> None:
    instruction = 0
    while write_stopped_at(old, instruction):
        assert old.read_text() in ("old", "new")
        assert list(old.parent.iterdir()) == [old]
        old.write_text("old")
        instruction += 1
    assert instruction > 50


def test_a_folder_that_cannot_be_made(old: Path) -> None:
    path = old / "below" / "record.json"  # permissions do not bind root, a file in the way does
    with pytest.raises(OutputError, match=rf"cannot write {path}: "):
        write_text(path, "x")
    with pytest.raises(OutputError, match=rf"cannot write to the output folder {path.parent}: "):
        ensure_writable(path.parent)
    assert_untouched(old)


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    target.mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        write_text(target, "x")
    assert list(tmp_path.iterdir()) == [target]


def test_ensure_writable_makes_the_folder_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "probe"
    ensure_writable(folder)
    ensure_writable(folder)
    assert list(folder.iterdir()) == []


def test_json_round_trip(old: Path) -> None:
    value = {"a": [1, 2.5, None, "ä"], "b": {}}
    write_json(old, value)
    assert json.loads(old.read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_has_no_token_for_what_is_not_a_number(old: Path, number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(old, {"a": number})
    assert_untouched(old)


def test_quarantine_keeps_every_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    for number in (1, 2, 3):
        path.write_text(f"bad {number}")
        target = quarantine(path, "it is bad")
        assert target == tmp_path / f"resume.pt.corrupt-{number}"
        assert not path.exists()
    kept = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert kept == {f"resume.pt.corrupt-{number}": f"bad {number}" for number in (1, 2, 3)}
