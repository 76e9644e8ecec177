"""Code bases whose checkpoints can be taken over."""

from collections.abc import Callable

from contextbench.interop import mmsegmentation, torchvision_models
from contextbench.interop.facts import Facts
from contextbench.interop.files import CheckpointFile
from contextbench.interop.structure import Recognised

SOURCES: dict[str, Callable[[CheckpointFile, Facts], Recognised]] = {
    "mmseg": mmsegmentation.recognise,
    "torchvision": torchvision_models.recognise,
}
