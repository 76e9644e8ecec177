"""Code bases whose checkpoints can be taken over."""

from collections.abc import Callable

from contextbench.interop import (
    hrnet,
    mmsegmentation,
    ocnet,
    openseg,
    pytorch_encoding,
    smp,
    torchvision_models,
)
from contextbench.interop.facts import Facts
from contextbench.interop.files import CheckpointFile
from contextbench.interop.structure import Recognised

SOURCES: dict[str, Callable[[CheckpointFile, Facts], Recognised]] = {
    "mmseg": mmsegmentation.recognise,
    "openseg": openseg.recognise,
    "ocnet": ocnet.recognise,
    "pytorch-encoding": pytorch_encoding.recognise,
    "hrnet": hrnet.recognise,
    "smp": smp.recognise,
    "torchvision": torchvision_models.recognise,
}
