"""Using a trained run: scores under other evaluation settings, and masks of new images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from contextbench.config import EvaluateConfig, HeadConfig, Protocol, validated
from contextbench.data import LabelSet, build_dataset
from contextbench.data.labels import colourise, read_image
from contextbench.evaluation import evaluate
from contextbench.files import write_atomic
from contextbench.metrics import group_iou, scores
from contextbench.model import Segmenter
from contextbench.precision import Precision
from contextbench.prediction import Predictor
from contextbench.results import RecordError, RunRecord, read_run
from contextbench.runner import Execution, load_trained

OVERLAY_SHARE = 0.5  # of the mask's colour in an overlay


def open_run(folder: Path, execution: Execution) -> tuple[RunRecord, Protocol, Segmenter]:
    """The record, the protocol and the trained model of a run folder.

    Raises `RecordError` for a folder that is no finished run, `CheckpointError` for its weights.
    """
    path = folder / "record.json"
    if not path.exists():
        raise RecordError(f"{folder} is not the folder of a run: it has no record.json")
    record = read_run(path)
    if record.status != "done":
        raise RecordError(f"{folder}: this run is recorded as {record.status}, it has no model")
    protocol = Protocol.model_validate(record.protocol)
    model = load_trained(
        folder,
        protocol,
        HeadConfig.model_validate(record.head),
        len(record.labels.classes),
        stored_precision(record),
        execution.device,
    )
    return record, protocol, model


def stored_precision(record: RunRecord) -> Precision:
    """The number format and layout that a run was trained and evaluated in."""
    return Precision(**record.precision)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Views:
    """What an evaluation changes of a protocol's; None leaves it."""

    scales: tuple[float, ...] | None = None
    flip: bool | None = None
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    def applied_to(self, config: EvaluateConfig) -> EvaluateConfig:
        """`config` with the changes. Raises `ConfigError` where they do not fit together."""
        changes: dict[str, Any] = {"scales": self.scales, "flip": self.flip}
        if self.window is not None or self.stride is not None:
            window = self.window or config.window
            # Neighbouring windows overlap by a third unless told otherwise.
            default = None if window is None else tuple(-(-2 * side // 3) for side in window)
            changes.update(mode="slide", window=window, stride=self.stride or default)
        given = {name: value for name, value in changes.items() if value is not None}
        return validated(EvaluateConfig, {**config.model_dump(), **given}, "evaluation options")


def evaluate_runs(
    folders: Sequence[Path], execution: Execution, split: str | None, views: Views
) -> dict[str, Any]:
    """Scores of a run, or of the mean prediction of several, as fractions, by name.

    Classes absent from the split are None. Raises `RecordError` for runs of different classes or
    data, besides what `open_run` raises.
    """
    opened = [open_run(folder, execution) for folder in folders]
    record, protocol, _ = opened[0]
    _check_ensemble(folders, [each for each, _, _ in opened])
    split = split or protocol.dataset.evaluate
    config = views.applied_to(protocol.evaluate)
    dataset = build_dataset(protocol.dataset, split, execution.data_root)
    predictor = Predictor(
        [model for _, _, model in opened],
        execution.device,
        stored_precision(record),
        config,
        dataset.labels.mirrored,
    )
    name = " + ".join(f"{each.head_name} seed {each.seed}" for each, _, _ in opened)
    with execution.reporter.task(f"evaluate {name}", len(dataset)) as update:

        def show(done: int, _total: int) -> None:
            execution.stop.check()
            update(done, "")

        areas = evaluate(predictor, dataset, progress=show)
    result = scores(areas.intersection.sum(0), areas.predicted.sum(0), areas.labelled.sum(0))
    groups = {name: tuple(ids) for name, ids in record.labels.groups.items()}
    return {
        "head": record.head_name,
        "runs": [str(folder) for folder in folders],
        "split": split,
        "images": len(areas.names),
        **config.model_dump(mode="json"),
        "miou": _number(result.miou),
        "pixel_accuracy": _number(result.pixel_accuracy),
        "mean_accuracy": _number(result.mean_accuracy),
        "frequency_weighted_iou": _number(result.frequency_weighted_iou),
        "iou_per_class": {
            name: _number(value)
            for name, value in zip(record.labels.classes, result.iou_per_class, strict=True)
        },
        "iou_per_group": {
            name: _number(value) for name, value in group_iou(result.iou_per_class, groups).items()
        },
    }


def _check_ensemble(folders: Sequence[Path], records: Sequence[RunRecord]) -> None:
    first = records[0]
    for folder, record in zip(folders, records, strict=True):
        same = (record.labels.classes, record.protocol["dataset"], record.precision)
        if same != (first.labels.classes, first.protocol["dataset"], first.precision):
            raise RecordError(
                f"{folder} and {folders[0]} cannot predict together: their classes, datasets or "
                "number formats differ"
            )


def predict_files(
    folder: Path, images: Sequence[Path], out: Path, execution: Execution
) -> Iterator[Path]:
    """Write `STEM_mask.png` (train ids), `STEM_colour.png` and `STEM_overlay.png` for each image.

    Yields the paths as they are written; `out` is made with the first. Raises `DataError` for a
    file that is no image, and for a model that cannot do without labels.
    """
    record, protocol, model = open_run(folder, execution)
    predictor = Predictor(
        [model], execution.device, stored_precision(record), protocol.evaluate, _mirrored(record)
    )
    for path in images:
        execution.stop.check()
        image = read_image(path)  # (3, H, W)
        prediction = predictor(image, (image.shape[-2], image.shape[-1]))
        mask = prediction.cpu().numpy()
        colour = colourise(mask, tuple(record.labels.palette))
        picture = image.permute(1, 2, 0).numpy()
        overlay = (1 - OVERLAY_SHARE) * picture + OVERLAY_SHARE * colour
        pictures = {"mask": mask, "colour": colour, "overlay": overlay.astype(np.uint8)}
        for name, array in pictures.items():
            target = out / f"{path.stem}_{name}.png"
            _write_png(target, array)
            yield target


def _mirrored(record: RunRecord) -> tuple[int, ...]:
    labels = record.labels
    return LabelSet(tuple(labels.classes), tuple(labels.palette), swap=tuple(labels.swap)).mirrored


def _write_png(path: Path, array: npt.NDArray[np.uint8]) -> None:
    write_atomic(path, lambda file: Image.fromarray(array).save(file, "PNG"))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
