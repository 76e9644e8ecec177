"""The trials of a tuning as tables: a row a head for a terminal, a row a trial for a file."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from contextbench.config.grids import values_text
from contextbench.records.tuning import HeadTuning, TuningRecord
from contextbench.report.tables.sheet import Sheet
from contextbench.report.tuning import tuned_keys
from contextbench.report.words import ABSENT, percent


def tuning_sheet(heads: Mapping[str, HeadTuning]) -> Sheet:
    """What was chosen for each head."""
    rows = [
        [
            name,
            values_text(head.values) or ABSENT,
            ABSENT if head.score is None else percent(head.score),
            f"{sum(trial.score is not None for trial in head.trials)} of {len(head.trials)}",
            ABSENT if head.compared is None else str(len(head.alike)),
        ]
        for name, head in heads.items()
    ]
    header = ["head", "chosen", "mIoU\n%", "scored\ntrials", "not separated\nfrom it"]
    return Sheet.plain(header, rows, left=["chosen"])


def trials_frame(record: TuningRecord) -> pd.DataFrame:
    """A row a trial: head, the values of all keys, `miou` as a mean over seeds, each seed's, and
    whether it was chosen or is not separated from that."""
    keys = tuned_keys(record.heads)
    return pd.DataFrame(
        {
            "head": name,
            **{key: trial.value_of(key) for key in keys},
            "miou": trial.score,
            **_by_seed(record, trial.scores),
            "chosen": number == head.chosen,
            "not_separated": number in head.alike,
            "cause": trial.cause or "",
        }
        for name, head in record.heads.items()
        for number, trial in enumerate(head.trials)
    )


def _by_seed(record: TuningRecord, scores: list[float | None]) -> dict[str, Any]:
    names = [f"miou_seed_{seed}" for seed in record.seeds]
    return dict(zip(names, scores or [None] * len(names), strict=True))
