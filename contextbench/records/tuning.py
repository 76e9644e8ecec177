"""What heads were tuned with and what was chosen: `tuning.json`, and its part in a run's record.

<out>/<protocol>-tuning/   tuning.json, precision.json, figures/ and, for each choice of values,
                           train.lr=0.01/<head>/seed-<n> with the files of a run
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from contextbench.config.evaluation import ViewName
from contextbench.records.stored import (
    SCHEMA_VERSION,
    Count,
    Free,
    Positive,
    RecordError,
    Stored,
    read_record,
)
from contextbench.system.naming import Name

TUNING = "tuning.json"
SUFFIX = "-tuning"  # of the folder, after the name of the protocol
Score = Annotated[float, Field(ge=0, le=1)]
Compared = Literal["trainings", "images"]


class Trial(Stored):
    """One choice of values, with what each seed came to in the view that is chosen by.

    `scores` has an entry for each seed, None for one that has no score; before it ran `scores` is
    empty. `fingerprint` is that of the protocol with these values in that view alone.
    """

    values: Free
    fingerprint: str
    scores: list[Score | None] = []
    digests: list[str | None] = []  # SHA-256 of the counts of each seed
    cause: str | None = None  # why a seed has no score

    @model_validator(mode="after")
    def _one_entry_a_seed(self) -> Self:
        if len(self.scores) != len(self.digests):
            raise ValueError("a trial has as many digests as scores")
        return self

    def value_of(self, key: str) -> Any:
        """None for a key that the head was not tuned in."""
        return self.values.get(key)

    @property
    def score(self) -> float | None:
        """Mean over the seeds; None unless all of them have one."""
        known = [score for score in self.scores if score is not None]
        return sum(known) / len(known) if known and len(known) == len(self.scores) else None


class HeadTuning(Stored):
    """The trials of one head in the order of the grid, and which of them was chosen.

    Chosen is the highest mean score, of equal ones the first; None before all trials are over and
    where none has a score. `alike` are the trials that are not separated from the chosen one:
    over trainings and images where `compared` says `trainings`, else over images alone, of the
    models that were trained; None where that could not be judged.
    """

    head: Free  # resolved, as it is without tuning
    trials: Annotated[list[Trial], Field(min_length=1)]
    chosen: Count | None = None
    alike: list[Count] = []
    compared: Compared | None = None

    @model_validator(mode="after")
    def _chosen_from_trials(self) -> Self:
        numbers = [*self.alike, *([] if self.chosen is None else [self.chosen])]
        if any(number >= len(self.trials) for number in numbers):
            raise ValueError(f"there are {len(self.trials)} trials, and a later one is named")
        if self.chosen is not None and self.trials[self.chosen].score is None:
            raise ValueError("the chosen trial has no score")
        if any(set(trial.values) != set(self.trials[0].values) for trial in self.trials):
            raise ValueError("its trials have not the same keys")
        return self

    @property
    def over(self) -> bool:
        """Whether all trials have run."""
        return all(trial.scores for trial in self.trials)

    @property
    def values(self) -> dict[str, Any]:
        """The chosen ones; {} without a choice."""
        return {} if self.chosen is None else dict(self.trials[self.chosen].values)

    @property
    def score(self) -> float | None:
        """Of the chosen trial."""
        return None if self.chosen is None else self.trials[self.chosen].score


class Basis(Stored):
    """What the choices rest on, the same for all heads."""

    grid: list[str]  # axes as they are given to `--grid`
    seeds: Annotated[list[Count], Field(min_length=1)]
    view: ViewName  # that is chosen by
    settings: Free  # of the view, with its split
    split: str
    images: Positive
    trained_on: bool = False  # whether heads are trained on images of that split

    def check(self, head: HeadTuning) -> None:
        """Raise ValueError unless every trial has a score for each seed, or none at all."""
        if any(len(trial.scores) not in (0, len(self.seeds)) for trial in head.trials):
            raise ValueError(f"a trial has not the scores of {len(self.seeds)} seeds")


class TuningRecord(Basis):
    """A `tuning.json`."""

    schema_version: int = SCHEMA_VERSION
    protocol: Free  # resolved, without the values of the grid
    fingerprint: str  # of that protocol in the view that is chosen by
    dataset_fingerprint: str  # of the training split and the view's
    weights_digest: str | None = None
    init_digest: str | None = None
    environment: Free = {}
    heads: Annotated[dict[Name, HeadTuning], Field(min_length=1)]

    @model_validator(mode="after")
    def _all_seeds(self) -> Self:
        for head in self.heads.values():
            self.check(head)
        return self

    @property
    def finished(self) -> bool:
        """Whether all trials of all heads have run."""
        return all(head.over for head in self.heads.values())

    @property
    def digest(self) -> str:
        """Of all trials and choices: two tunings of one digest chose the same from the same."""
        text = self.model_dump_json(exclude={"environment"})
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Tuned(Basis):
    """What a run's settings were chosen from. In the record of a run that `--tuned` made."""

    digest: str  # of the tuning
    protocol_fingerprint: str  # of the protocol without the chosen values, in its first view
    head: HeadTuning
    others: Free = {}  # values of the protocol that the chosen ones replace

    @model_validator(mode="after")
    def _all_seeds(self) -> Self:
        self.check(self.head)
        return self


def tuning_folder(out: Path, protocol: str) -> Path:
    """Where the trials under a protocol lie."""
    return out / f"{protocol}{SUFFIX}"


def read_tuning(folder: Path) -> TuningRecord:
    """The `tuning.json` of a folder, or that file. Raises `RecordError` for one of no use."""
    path = folder / TUNING if folder.is_dir() else folder
    if not path.exists():
        raise RecordError(
            f"{folder}: there is no {TUNING}; `contextbench tune` writes it into "
            f"OUT/PROTOCOL{SUFFIX}"
        )
    return read_record(TuningRecord, path)
