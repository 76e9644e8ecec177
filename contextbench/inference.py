"""Using a trained run: scores under other evaluation settings, and masks of new images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from contextbench.config import HeadConfig, Protocol
from contextbench.data import build_dataset
from contextbench.data.labels import colourise, read_image
from contextbench.evaluation import evaluate, predict_image
from contextbench.files import write_atomic
from contextbench.metrics import group_iou, scores
from contextbench.model import Segmenter
from contextbench.precision import Precision
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


def evaluate_run(
    folder: Path,
    execution: Execution,
    split: str | None,
    scales: Sequence[float] | None,
    flip: bool,
) -> dict[str, Any]:
    """Scores of a run as fractions, by name; classes absent from the split are None."""
    record, protocol, model = open_run(folder, execution)
    split = split or protocol.dataset.evaluate
    scales = tuple(scales or protocol.evaluate.scales)
    flip = flip or protocol.evaluate.flip
    dataset = build_dataset(protocol.dataset, split, execution.data_root)
    with execution.reporter.task(f"evaluate {record.head_name}", len(dataset)) as update:

        def show(done: int, _total: int) -> None:
            execution.stop.check()
            update(done, "")

        areas = evaluate(
            model,
            dataset,
            scales=scales,
            flip=flip,
            device=execution.device,
            precision=stored_precision(record),
            progress=show,
        )
    result = scores(areas.intersection.sum(0), areas.predicted.sum(0), areas.labelled.sum(0))
    groups = {name: tuple(ids) for name, ids in record.labels.groups.items()}
    return {
        "head": record.head_name,
        "split": split,
        "images": len(areas.names),
        "scales": list(scales),
        "flip": flip,
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


def predict_files(
    folder: Path, images: Sequence[Path], out: Path, execution: Execution
) -> Iterator[Path]:
    """Write `STEM_mask.png` (train ids), `STEM_colour.png` and `STEM_overlay.png` for each image.

    Yields the paths as they are written; `out` is made with the first. Raises `DataError` for a
    file that is no image, and for a model that cannot do without labels.
    """
    record, protocol, model = open_run(folder, execution)
    precision = stored_precision(record)
    for path in images:
        execution.stop.check()
        image = read_image(path)  # (3, H, W)
        prediction = predict_image(
            model,
            image,
            (image.shape[-2], image.shape[-1]),
            scales=protocol.evaluate.scales,
            flip=protocol.evaluate.flip,
            device=execution.device,
            precision=precision,
        )
        mask = prediction.cpu().numpy()
        colour = colourise(mask, tuple(record.labels.palette))
        picture = image.permute(1, 2, 0).numpy()
        overlay = (1 - OVERLAY_SHARE) * picture + OVERLAY_SHARE * colour
        pictures = {"mask": mask, "colour": colour, "overlay": overlay.astype(np.uint8)}
        for name, array in pictures.items():
            target = out / f"{path.stem}_{name}.png"
            _write_png(target, array)
            yield target


def _write_png(path: Path, array: npt.NDArray[np.uint8]) -> None:
    write_atomic(path, lambda file: Image.fromarray(array).save(file, "PNG"))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
