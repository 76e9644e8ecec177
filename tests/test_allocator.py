"""Memory that is freed is kept where the platform can, and nobody decided otherwise."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from contextbench.system.allocator import OTHERS, VARIABLE, Allocator, AllocatorError

GLIBC = platform.libc_ver()[0] == "glibc"
MEBI = 2**20

# Pages that the process has after 64 MiB were taken, written and freed, less those before.
FREED = """
import os
from pathlib import Path
from contextbench.system.allocator import Allocator

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

allocator = Allocator()
allocator.keep()
before = resident()
piece = bytearray(64 * 2**20)
piece[:] = b"1" * len(piece)
del piece
print(allocator.setting, resident() - before)
"""


def freed(**variables: str) -> tuple[str, int]:
    """The setting of a fresh process, and the bytes that it keeps."""
    clean = {key: value for key, value in os.environ.items() if key not in (*OTHERS, VARIABLE)}
    path = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", FREED],
        env={**clean, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    setting, kept = done.stdout.split()
    return setting, int(kept)


@pytest.mark.skipif(not GLIBC, reason="the setting is that of glibc")
def test_what_is_freed_is_kept() -> None:
    """Of twice 64 MiB, the piece and what is written to it, at least one stays."""
    setting, kept = freed()
    assert setting == "keep"
    assert kept > 60 * MEBI


@pytest.mark.parametrize(
    "variables", [{VARIABLE: "system"}, {"MALLOC_TOP_PAD_": "1"}, {"GLIBC_TUNABLES": "x.y=1"}]
)
def test_it_goes_back_where_somebody_decided_so(variables: dict[str, str]) -> None:
    setting, kept = freed(**variables)
    assert setting == "system"
    assert kept < 8 * MEBI


def test_another_value_is_refused() -> None:
    with pytest.raises(AllocatorError, match=r"CONTEXTBENCH_MALLOC=.*jemalloc.*keep and system"):
        Allocator().keep({VARIABLE: "jemalloc"})


def test_nothing_happens_unless_it_is_asked_for() -> None:
    assert Allocator().setting == "system"
