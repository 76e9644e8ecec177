"""A finished run as a model to use: labels, logits and attention of any image.

Axes: K classes, (H, W) image pixels, (h, w) feature pixels, height first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contextbench.config.protocols import Protocol
from contextbench.data.inputs import GivenImage, name_of, pixels_of
from contextbench.evaluation.attention import AttentionError, attention_maps
from contextbench.evaluation.batches import WindowBatches
from contextbench.interop.deployed import Exported
from contextbench.measure.fitting import fitting
from contextbench.models.device import device_of
from contextbench.models.segmenter import Segmenter
from contextbench.records.attention import AttentionMap
from contextbench.records.runs import RunRecord
from contextbench.runs.attending import train_id
from contextbench.runs.exporting import Wanted, export_run
from contextbench.runs.trained import (
    Changes,
    finite,
    open_run,
    predictor_of,
    seen_config,
    stored_precision,
)
from contextbench.system.plugins import permit
from contextbench.training.execution import Execution


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model with all that its run knew. Images are as `pixels_of` takes them.

    `segmenter` is the module itself, in evaluation mode, on `device`; it takes normalised images.
    """

    folder: Path
    record: RunRecord
    protocol: Protocol
    segmenter: Segmenter
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order of their train ids."""
        return tuple(self.record.labels.classes)

    @cached_property
    def _batches(self) -> WindowBatches:
        """How many windows go through the model at once; found out when it is first asked for."""
        return WindowBatches(fitting(self.device, stored_precision(self.record)))

    @property
    def palette(self) -> NDArray[np.uint8]:
        """(K, 3) RGB: `model.palette[labels]` is a picture of labels."""
        return np.array(self.record.labels.palette, dtype=np.uint8)

    def predict(
        self,
        image: GivenImage,
        *,
        view: str | None = None,
        scales: Sequence[float] | None = None,
        flip: bool | None = None,
        window: tuple[int, int] | None = None,
        stride: tuple[int, int] | None = None,
    ) -> NDArray[np.uint8]:
        """Train ids (H, W) at the size of the image, as `contextbench predict` writes them.

        With the settings of a view of the run, the first unless named, but for those that are
        given. Raises `DataError` for an image that cannot be taken as it is, `ConfigError` for a
        view that there is not and settings that do not fit.
        """
        seen = seen_config(self.record, self.protocol, view)
        config = Changes(scales, flip, window, stride).applied_to(seen)
        predictor = predictor_of(self.record, self.segmenter, config, self.device, self._batches)
        pixels = pixels_of(image)
        with finite(name_of(image)):
            labels = predictor(pixels, (pixels.shape[-2], pixels.shape[-1]))
        return np.asarray(labels.cpu().numpy(), dtype=np.uint8)

    def logits(self, image: GivenImage) -> NDArray[np.float32]:
        """(K, h, w) of the image as it is, in one pass, on the grid of the head's features.

        At the size of the image they would take 4 K H W bytes; `predict` resizes them bilinearly,
        without aligned corners, a strip at a time. Raises `DataError` as `predict` does.
        """
        predictor = predictor_of(self.record, self.segmenter, self.protocol.view(), self.device)
        pixels = pixels_of(image)
        with finite(name_of(image)):
            logits = predictor.logits(pixels)
        return np.asarray(logits.cpu().numpy(), dtype=np.float32)

    def attend(
        self, image: GivenImage, pixel: tuple[int, int], *, class_name: str | None = None
    ) -> list[AttentionMap]:
        """What `pixel` (y, x) attends to: the influence first, then what the head has.

        The influence is on the logit of `class_name`, else of the class predicted for the pixel.
        Raises `AttentionError` for a pixel or a class there is not, `DataError` as `predict` does.
        """
        return attention_maps(
            self.segmenter,
            pixels_of(image),
            _whole(pixel),
            head_name=self.record.head_name,
            image_name=name_of(image),
            classes=self.classes,
            target=train_id(class_name, self.classes),
        )

    def export(
        self,
        path: str | Path,
        format: str,
        *,
        size: tuple[int, int] | None = None,
        input: str = "uint8",
        output: str = "logits",
        batch: int = 1,
        fresh: bool = False,
    ) -> Exported:
        """Write the model to a file, as `contextbench export` does; what was compared.

        Without `size` (H, W) images may have any. Raises `ExportError` for what cannot be exported
        so, `ConfigError` for what is unknown, `OutputError` for a file that is there.
        """
        wanted = Wanted(format, size, input, output, batch, fresh)
        return export_run(self.folder, Path(path), wanted)


def _whole(pixel: tuple[int, int]) -> tuple[int, int]:
    try:
        y, x = (index(each) for each in pixel)
    except (TypeError, ValueError):
        raise AttentionError(
            f"pixel {pixel!r}: row and column are expected, whole numbers such as (120, 200)"
        ) from None
    return y, x


def load(run: str | Path, *, device: str = "auto", plugins: Sequence[str] = ()) -> Model:
    """The model of a finished run, from its folder `runs/PROTOCOL/HEAD/seed-N`.

    `plugins` are places of code, `package.module:Class`, that the run may be of besides what is
    installed as a plug-in. Raises `RecordError` for a folder that is no finished run, `PluginError`
    for a run of other code, `CheckpointError` for weights that are not its own, `ConfigError` for a
    device that is not there.
    """
    for place in plugins:
        permit(place)
    folder = Path(run)
    execution = Execution(out=folder, device=device_of(device))
    record, protocol, segmenter = open_run(folder, execution)
    return Model(folder, record, protocol, segmenter, execution.device)
