"""A published checkpoint as the folder of a run, as if it had been trained here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from contextbench.config.files import ConfigError, nearest, validated
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.data import LabelSet, dataset_source
from contextbench.interop.facts import Facts, written
from contextbench.interop.files import CheckpointFile, ImportedError, read_checkpoint
from contextbench.interop.sources import SOURCES
from contextbench.interop.structure import Recognised, transplant
from contextbench.models.backbone import RESNETS
from contextbench.models.build import build_model
from contextbench.models.checkpoint import save_checkpoint
from contextbench.models.hrnet import HRNETS
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter
from contextbench.records.counts import Areas, write_areas
from contextbench.records.history import write_history
from contextbench.records.provenance import now
from contextbench.records.runs import CHECKPOINT, Imported, RunRecord
from contextbench.records.stored import write_model
from contextbench.records.views import COUNTS, ViewResult
from contextbench.runs.cells import Cell, Setting, open_setting
from contextbench.runs.run import label_info
from contextbench.runs.views import evaluated, result_of
from contextbench.runs.weights import description, own_run
from contextbench.system.files import digest_of, write_text
from contextbench.training.environment import environment
from contextbench.training.execution import Execution
from heads import HEADS


@dataclass(frozen=True)
class Request:
    """What is asked for beside the file, its source and the protocol.

    `head` and `backbone` are what it has to be recognised as, unless they are None. `facts` are
    what the file does not say; `usual` takes what published models have for the rest. `score`
    evaluates under the protocol, which needs its data. `published` is the score that the publisher
    states, in words.
    """

    name: str | None = None
    head: str | None = None
    backbone: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    usual: bool = False
    partial: bool = False
    published: str | None = None
    score: bool = False
    fresh: bool = False


def import_checkpoint(
    path: Path,
    source: str,
    folder: Path,
    protocol: Protocol,
    request: Request,
    execution: Execution,
) -> RunRecord:
    """Write the model of a checkpoint to `folder`, which then is that of a finished run.

    Nothing is written before all is known to fit. Raises `ImportedError` for a file that cannot be
    taken over and for classes that are not the dataset's, `ConfigError` for lacking facts and for a
    folder that holds a run, `DataError` for the dataset.
    """
    _check_asked(source, folder, request)
    file, facts = read_checkpoint(path), Facts(request.facts, usual=request.usual)
    found = SOURCES[source](file, facts)
    _check_expected(found, path, request)
    labels = dataset_source(protocol.dataset, execution.data_root).facts.labels
    _check_classes(found, file, labels, protocol)
    settings, head = _settings(protocol, found), _head(found, source, folder, request.name)
    model = build_model(settings, head, found.num_classes, seed=0, pretrained=False)
    moved = transplant(model, file, found, partial=request.partial)
    imported = Imported(
        source=source,
        model=found.model,
        file=path.name,
        digest=file.digest,
        published=request.published,
        facts={name: written(value) for name, value in facts.stated.items()},
        assumed={name: written(value) for name, value in facts.assumed.items()},
        inference=None if found.inference is None else dict(found.inference),
        partial=any(note.startswith("Missing") for note in moved),
        notes=[*file.notes, *found.notes, *moved],
    )
    setting = open_setting(settings, execution.data_root) if request.score else None
    run = _Imported(folder, settings, head, labels, imported, setting)
    return run.keep(model.eval(), execution)


@dataclass(frozen=True)
class _Imported:
    """A run folder in the making; `setting` where it is scored."""

    folder: Path
    protocol: Protocol
    head: HeadConfig
    labels: LabelSet
    imported: Imported
    setting: Setting | None

    @property
    def seed(self) -> int:
        """That of the folder's name: a record has to be where its folder says."""
        named = re.fullmatch(r"seed-(\d+)", self.folder.absolute().name)
        return int(named[1]) if named else 0

    @property
    def fingerprint(self) -> str:
        """Of the protocol with its data, of which nothing is known unless they were opened."""
        return self.setting.fingerprint if self.setting else self.protocol.fingerprint("not opened")

    @property
    def precision(self) -> Precision:
        dtype = self.protocol.precision
        return Precision() if dtype == "auto" else Precision(dtype)

    def keep(self, model: Segmenter, execution: Execution) -> RunRecord:
        began = now()
        cell, counted = self._cell, None
        if cell is not None:
            counted = _counted(cell, model, self.imported, execution)
        about = {
            **description(self.protocol, self.head, len(self.labels.classes)),
            **own_run(self.head.name, self.seed, self.fingerprint),
        }
        protocol, head = self.protocol.model_dump(mode="json"), self.head.model_dump(mode="json")
        resolved = {"protocol": protocol, "head": head, "seed": self.seed}
        contents = {"config": resolved, "protocol": protocol, "head": head}
        for name, content in contents.items():
            text = str(yaml.safe_dump(content, sort_keys=False))
            write_text(self.folder / f"{name}.yaml", text)
        write_history(self.folder / "history.jsonl", [])
        save_checkpoint(self.folder / CHECKPOINT, model, about)
        path = self.folder / COUNTS
        path.unlink(missing_ok=True)
        views = {}
        if cell is not None and counted is not None:
            write_areas(path, counted[0])
            views = {cell.first_view: result_of(cell, cell.first_view, *counted, path)}
        record = self._record(views, began, execution)
        write_model(self.folder / "record.json", record)
        return record

    @property
    def _cell(self) -> Cell | None:
        if self.setting is None:
            return None
        return Cell(self.setting, self.head, self.seed, self.precision)

    def _record(self, views: dict[str, ViewResult], began: str, execution: Execution) -> RunRecord:
        return RunRecord(
            status="done",
            protocol=self.protocol.model_dump(mode="json", exclude={"dataset": {"root"}}),
            head=self.head.model_dump(mode="json"),
            seed=self.seed,
            fingerprint=self.fingerprint,
            dataset_fingerprint=self.setting.dataset_fingerprint if self.setting else "not opened",
            labels=label_info(self.labels),
            precision={
                "dtype": self.precision.dtype,
                "memory_format": self.precision.memory_format,
            },
            environment=environment(execution.device, precision=self.precision),
            started=began,
            finished=now(),
            steps=0,
            train_seconds=0,
            views=views,
            weights_digest=self.setting.weights_digest if self.setting else None,
            imported=self.imported,
            digests={CHECKPOINT: digest_of(self.folder / CHECKPOINT)},
        )


def _counted(
    cell: Cell, model: Segmenter, imported: Imported, execution: Execution
) -> tuple[Areas, float]:
    layout = cell.precision.torch_memory_format
    placed = model.to(execution.device).to(memory_format=layout)
    try:
        return evaluated(cell, placed, cell.first_view, execution)
    except FloatingPointError as error:
        raise ImportedError(f"import: {imported.file}: {error}") from error


def _check_asked(source: str, folder: Path, request: Request) -> None:
    if source not in SOURCES:
        raise ConfigError(f"--from {source!r} is unknown; {nearest(source, SOURCES)}")
    if (folder / "record.json").exists() and not request.fresh:
        raise ConfigError(f"{folder} holds a run already: choose another --out, or --fresh")


def _check_expected(found: Recognised, path: Path, request: Request) -> None:
    """Raises `ConfigError` where the file is of another model than was asked for."""
    asked = {"head": request.head, "backbone": request.backbone}
    seen = {"head": found.head, "backbone": found.backbone.name}
    known = {"head": HEADS, "backbone": (*RESNETS, *HRNETS)}
    for option, given in asked.items():
        if given is None:
            continue
        if given not in known[option]:
            raise ConfigError(f"--{option} {given}: {nearest(given, known[option])}")
        if given != seen[option]:
            raise ConfigError(
                f"--{option} {given}: {path} is recognised as {seen['head']} on {seen['backbone']}"
            )


def _check_classes(
    found: Recognised, file: CheckpointFile, labels: LabelSet, protocol: Protocol
) -> None:
    """Names are compared by their letters and digits: spelling differs between code bases."""
    where = f"dataset {protocol.dataset.name} of protocol {protocol.name}"
    if found.num_classes != len(labels.classes):
        raise ImportedError(
            f"import: {file.path} is a model of {found.num_classes} classes, and {where} has "
            f"{len(labels.classes)}: name its own with --protocol"
        )
    different = [
        f"{number}: {theirs!r} in the file, {ours!r} here"
        for number, (theirs, ours) in enumerate(
            zip(file.classes or labels.classes, labels.classes, strict=False)
        )
        if _plain(theirs) != _plain(ours)
    ]
    if file.classes is not None and len(file.classes) != len(labels.classes):
        different.append(f"the file names {len(file.classes)} classes")
    if different:
        more = f" and {len(different) - 8} more" if len(different) > 8 else ""
        raise ImportedError(
            f"import: the classes of {file.path} are not those of {where}: "
            f"{'; '.join(different[:8])}{more}"
        )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def _settings(protocol: Protocol, found: Recognised) -> Protocol:
    """The protocol with the model's own backbone, and heads as wide as they are."""
    own = protocol.backbone.model_dump(exclude={"weights"})
    same = own == found.backbone.model_dump(exclude={"weights"})
    weights = protocol.backbone.weights if same else None
    changes: dict[str, Any] = {
        "backbone": found.backbone.model_copy(update={"weights": weights}),
        "head_width_factor": 1.0,
        "align_corners": found.align_corners,
    }
    return protocol.model_copy(update=changes)


def _head(found: Recognised, source: str, folder: Path, name: str | None) -> HeadConfig:
    """Named as asked, else as the folder above `seed-N` is, else after head and source."""
    if name is None:
        place = folder.absolute()
        in_grid = re.fullmatch(r"seed-(\d+)", place.name)
        name = place.parent.name if in_grid else f"{found.head}-{source}"
    content = {"name": name, "head": found.head, "options": dict(found.options)}
    return validated(HeadConfig, content, "--name")
