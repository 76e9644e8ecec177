"""What `train.init` names: the run or file whose weights a training starts from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.models.initial import Fit, fit, stored_classes
from contextbench.models.segmenter import Segmenter
from contextbench.records.runs import CHECKPOINT, Initial, RunRecord, damage
from contextbench.runs.cells import Setting, init_file
from contextbench.runs.trained import finished_record
from contextbench.training.execution import Execution


@dataclass(frozen=True)
class Start:
    """A model to start from, as it fits one head."""

    place: str  # as it was given
    record: RunRecord | None  # of the run, where it is one
    fitted: Fit

    @property
    def label(self) -> str:
        """The run or file, for messages and records."""
        if self.record is None:
            return f"the file {self.fitted.path.name}"
        record = self.record
        return f"{record.head_name}, seed {record.seed}, of protocol {record.protocol_name}"

    def recorded(self, digest: str) -> Initial:
        return Initial(
            place=self.place,
            digest=digest,
            model=self.label,
            classes=self.fitted.classes,
            anew=list(self.fitted.anew),
        )


def start_of(
    protocol: Protocol, head: HeadConfig, num_classes: int, classes: Sequence[str] | None
) -> Start | None:
    """What a head starts from, None where the protocol names nothing.

    `classes` are their names, where they are known. Raises `ConfigError` for what does not fit the
    head, `RecordError` for a folder that is no finished run.
    """
    place, path = protocol.train.init, init_file(protocol)
    if place is None or path is None:
        return None
    record = None
    if path.name == CHECKPOINT and path != Path(place).expanduser():
        record = finished_record(path.parent)
        damaged = damage(path.parent, record, CHECKPOINT)
        if damaged is not None:
            raise ConfigError(f"train.init: {damaged}")
    trained = stored_classes(path) if record is None else record.labels.classes
    other = None not in (trained, classes) and trained != list(classes or ())
    return Start(place, record, fit(path, protocol, head, num_classes, other_classes=other))


def check_start(setting: Setting, heads: Sequence[HeadConfig], execution: Execution) -> list[str]:
    """What heads start from, a sentence each. Raises as `start_of` does, and `ConfigError` for a
    run of this very comparison, which would start from what it replaces.
    """
    protocol, said = setting.protocol, []
    own, path = (execution.out / protocol.name).resolve(), init_file(protocol)
    if path is not None and path.resolve().is_relative_to(own):
        raise ConfigError(
            f"train.init: {protocol.train.init} is a run of this comparison, in {own}: choose "
            "another --out, or give the protocol another name"
        )
    for head in heads:
        start = start_of(protocol, head, setting.num_classes, setting.labels.classes)
        if start is not None:
            said.append(f"{head.name} starts from {start.label} ({start.place}){_anew(start)}")
    return said


def _anew(start: Start) -> str:
    if not start.fitted.anew:
        return ""
    names = ", ".join(start.fitted.anew)
    return f"; its {start.fitted.classes} classes are others, so these start anew: {names}"


def started(model: Segmenter, start: Start | None) -> Segmenter:
    """`model` with the weights that it starts from."""
    if start is not None:
        start.fitted.load(model)
    return model
