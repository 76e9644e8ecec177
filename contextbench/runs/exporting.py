"""A run as a file for other programs: a graph, or weights that say what they are."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from contextbench import __version__
from contextbench.config.files import ConfigError, nearest
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.data.base import DataError
from contextbench.interop.deployed import (
    FORMATS,
    INPUTS,
    OUTPUTS,
    SMALLEST,
    Exported,
    ExportError,
    Form,
    check_packages,
    export,
)
from contextbench.models.build import build_model
from contextbench.models.precision import FLOAT32
from contextbench.models.segmenter import Segmenter
from contextbench.records.runs import CHECKPOINT, RunRecord
from contextbench.records.settings import recorded_head, recorded_protocol
from contextbench.runs.trained import finished_record
from contextbench.runs.weights import load_trained
from contextbench.system.files import OutputError, digest_of

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Wanted:
    """`size` is (H, W) of all images, None: of any size."""

    format: str
    size: tuple[int, int] | None = None
    input: str = "uint8"
    output: str = "logits"
    batch: int = 1
    fresh: bool = False

    def check(self) -> None:
        """Raise `ConfigError` for what there is not."""
        known = {"format": FORMATS, "input": INPUTS, "output": OUTPUTS}
        for name, allowed in known.items():
            given = getattr(self, name)
            if given not in allowed:
                raise ConfigError(f"--{name} {given!r} is unknown; {nearest(given, allowed)}")
        graph = (self.size, self.input, self.output, self.batch) != (None, "uint8", "logits", 1)
        if self.format == "safetensors" and graph:
            raise ConfigError(
                "--format safetensors holds weights and no graph: --size, --input, --output and "
                "--batch are for the other formats"
            )

    def form(self, protocol: Protocol) -> Form:
        """Where images may have any size, traced at that of the training."""
        height, width = (max(side, SMALLEST) for side in protocol.train.crop)
        size, any_size = self.size or (height, width), self.size is None
        if self.format == "safetensors":
            any_size = False
        return Form(self.format, size, any_size, self.input, self.output, self.batch)  # type: ignore[arg-type]


def export_run(folder: Path, path: Path, wanted: Wanted) -> Exported:
    """Write the model of a finished run to `path`, read it back and compare.

    Raises, before the file is there, `ConfigError` for what is unknown, `ExportError` for what
    cannot be exported so, `RecordError` and `CheckpointError` for a folder without a model, and
    `OutputError` for a file that is there unless `fresh`.
    """
    wanted.check()
    check_packages(wanted.format)
    if path.exists() and not wanted.fresh:
        raise OutputError(f"{path} is there already: choose another --out, or --fresh")
    record = finished_record(folder)
    protocol, head = recorded_protocol(record, str(folder)), recorded_head(record, str(folder))
    form, first = wanted.form(protocol), None
    for each in _forms(protocol, head, form):
        model = load_trained(folder, protocol, each, len(record.labels.classes), FLOAT32, CPU)
        _check_labels(model, head)
        about = _about(folder, record, protocol, each, form)

        def rebuilt(each: HeadConfig = each) -> Segmenter:
            classes = len(record.labels.classes)
            return build_model(protocol, each, classes, seed=1, pretrained=False).eval()

        try:
            return export(model, form, about, path, rebuilt)
        except ExportError as error:
            first = first or error
    raise ExportError(f"{head.name} cannot be exported: {first}")


def _forms(protocol: Protocol, head: HeadConfig, form: Form) -> list[HeadConfig]:
    """The head as it ran and, if there is one, in its other form: one function, the same weights.

    An exporter may follow one of them where it cannot follow the other. Fast forms leave out work
    by the size of the map, so that images of any size need the reference.
    """
    with torch.device("meta"):
        built = build_model(protocol, head, 2, seed=0, pretrained=False).head
    option = inspect.signature(type(built)).parameters.get("implementation")
    if option is None:
        return [head]
    own = head.options.get("implementation", option.default)
    order = ["reference"] if form.any_size else [own, *{"fast", "reference"} - {own}]
    return [
        head.model_copy(update={"options": {**head.options, "implementation": each}})
        for each in order
    ]


def _check_labels(model: Segmenter, head: HeadConfig) -> None:
    if model.needs_labels:
        raise DataError(
            f"{head.name} cannot be exported: its regions are the ground truth, an upper bound for "
            "evaluation, so that it needs the labels of images"
        )


def _about(
    folder: Path, record: RunRecord, protocol: Protocol, head: HeadConfig, form: Form
) -> dict[str, str]:
    """What a file says of its model: values that are no text are JSON."""
    labels = record.labels
    graph: dict[str, Any] = {
        "input": f"images, RGB from 0 to 255 as {form.input}, (N, 3, height, width)",
        "output": form.output,
    }
    about = {
        "software": f"contextbench {__version__}",
        "classes": labels.classes,
        "palette": [list(colour) for colour in labels.palette],
        "head": head.model_dump(mode="json"),
        "protocol": protocol.model_dump(mode="json", exclude={"dataset": {"root"}}),
        "seed": record.seed,
        "fingerprint": record.fingerprint,
        "weights": digest_of(folder / CHECKPOINT),
        **({} if form.format == "safetensors" else graph),
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in about.items()
    }
