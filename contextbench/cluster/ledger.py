"""Which jobs a comparison has: small files beside its runs, which a later call finds again.

runs/<protocol>/.jobs/<head>/seed-<n>.json   job that has the cell
runs/<protocol>/.jobs/conclusion.json        job that measures costs and draws, once cells are over
runs/<protocol>/.jobs/concluded.json         digest of the records that it did that for
runs/<protocol>/.jobs/precision.json         number format and layout of the cells of all jobs
runs/<protocol>/.jobs/*_log.*                what jobs printed; the *.pkl are submitit's
"""

from pathlib import Path
from typing import Any

from contextbench.config.files import ConfigError, validated
from contextbench.config.frozen import Frozen
from contextbench.config.protocols import Protocol
from contextbench.system.files import quarantine, write_json
from contextbench.system.reading import read_json, why

CONCLUSION = "conclusion"


def jobs_folder(out: Path, protocol: Protocol) -> Path:
    """Where all that belongs to the jobs of a protocol lies."""
    return out / protocol.name / ".jobs"


class Entry(Frozen):
    """A job and what it was submitted to."""

    launcher: str
    job: str


class Ledger:
    """The jobs of one protocol that were submitted through one launcher."""

    def __init__(self, folder: Path, launcher: str) -> None:
        self._folder = folder
        self._launcher = launcher

    def find(self, name: str) -> Entry | None:
        """The job under a name, unless there is none or another launcher has it."""
        path = self._path(name)
        content = stored(path)
        if content is None:
            return None
        try:
            entry = validated(Entry, content, str(path))
        except ConfigError as error:
            quarantine(path, error)
            return None
        return entry if entry.launcher == self._launcher else None

    def add(self, name: str, job: str) -> Entry:
        """Note a job in place of an earlier one. Raises `OutputError`."""
        entry = Entry(launcher=self._launcher, job=job)
        write_json(self._path(name), entry.model_dump())
        return entry

    def remove(self, name: str) -> None:
        """Forget a job whose work is over."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def concluded(folder: Path) -> str | None:
    """Digest of the records that costs, tables and figures were last made for by a job."""
    content = stored(folder / "concluded.json")
    return None if content is None else str(content.get("digest"))


def mark_concluded(folder: Path, digest: str) -> None:
    """Keep what `concluded` returns. Raises `OutputError`."""
    write_json(folder / "concluded.json", {"digest": digest})


def stored(path: Path) -> dict[str, Any] | None:
    """A JSON mapping; None where there is no file, or one that cannot be read and is set aside."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        quarantine(path, f"cannot be read: {why(error)}")
        return None
    if isinstance(content, dict):
        return content
    quarantine(path, "it holds no mapping")
    return None
