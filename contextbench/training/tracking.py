"""What a training logs, written for TensorBoard while it runs: losses, rate, speed, watched scores.

Each start of the program adds a file. What it does again, since that was not stored when the one
before ended, takes the place of what is there: readers purge from the first step of a start on.
"""

import importlib.util
import math
from pathlib import Path
from typing import Any

from contextbench.config.files import ConfigError, nearest
from contextbench.statistics.scores import watched_miou
from contextbench.system.files import OutputError
from contextbench.system.reading import given
from contextbench.training.resume import Entry, Progress

NO_LOSSES = ("step", "lr")  # of the entries of a history


class TensorBoard:
    """Called with the progress that a training starts from, then whenever there is more of it.

    `batch` are the images of a step. Raises `OutputError` where `folder` cannot be written.
    """

    def __init__(self, folder: Path, batch: int) -> None:
        self._folder, self._batch = folder, batch
        self._writer: Any = None
        self._entries = self._watched = 0  # of the progress that are written
        self._pace: tuple[int, float] | None = None  # steps and seconds when losses were last read

    def __call__(self, progress: Progress) -> None:
        try:
            if self._writer is None:
                self._open(progress)
            else:
                self._write_pace(progress)
            self._write(progress)
            self._writer.flush()  # before the state is stored that the next start goes on from
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"cannot write to {self._folder}: {reason}") from error

    def close(self) -> None:
        """Nothing more will come."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, progress: Progress) -> None:
        from torch.utils.tensorboard import SummaryWriter  # of the extra `track`

        if any(self._folder.glob("events.*")):
            self._entries, self._watched = len(progress.history), len(progress.watched)
        first = self._entries + 1
        self._writer = SummaryWriter(str(self._folder), purge_step=first)

    def _write(self, progress: Progress) -> None:
        for entry in progress.history[self._entries :]:
            self._write_entry(entry)
        for watched in progress.watched[self._watched :]:
            if not math.isnan(miou := watched_miou(watched)):
                self._writer.add_scalar("watched/miou", miou, watched.step)
        self._entries, self._watched = len(progress.history), len(progress.watched)

    def _write_entry(self, entry: Entry) -> None:
        step = int(entry["step"])
        self._writer.add_scalar("lr", entry["lr"], step)
        for name in entry.keys() - set(NO_LOSSES):
            self._writer.add_scalar(f"loss/{name}", entry[name], step)

    def _write_pace(self, progress: Progress) -> None:
        """Images of training in a second of it, since losses were read last."""
        before, self._pace = self._pace, (progress.step, progress.seconds)
        if before is not None and progress.seconds > before[1] and progress.step > before[0]:
            images = self._batch * (progress.step - before[0])
            speed = images / (progress.seconds - before[1])
            self._writer.add_scalar("images_per_second", speed, progress.step)


TRACKERS = {"tensorboard": TensorBoard}
"""`--track NAME` -> what writes to the folder of that name in that of a run."""


def check_tracker(name: str | None) -> None:
    """Raise `ConfigError` for a name that is unknown, or whose package is not installed."""
    if name is None:
        return
    if name not in TRACKERS:
        raise ConfigError(f"--track {given(name)} is unknown; {nearest(name, TRACKERS)}")
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"--track {name}: the package {name} is not installed: "
            "pip install 'contextbench[track]'"
        )
