"""Context heads for semantic segmentation behind one interface. Needs torch and nothing else."""

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

from heads.asp_oc import ASPOCHead
from heads.asp_ocr import ASPOCRHead
from heads.aspp import ASPPHead
from heads.blocks import set_activation
from heads.ccnet import CCNetHead
from heads.danet import DANetHead
from heads.deeplabv3plus import DeepLabV3PlusHead
from heads.dnlnet import DNLNetHead
from heads.double_attention import DoubleAttentionHead
from heads.emanet import EMANetHead
from heads.encnet import EncNetHead
from heads.fcn import FCNHead
from heads.gcnet import GCNetHead
from heads.interface import Channels, ContextHead, Features, HeadOutput
from heads.isa import ISAHead
from heads.non_local import NonLocalHead
from heads.ocnet import OCNetHead
from heads.ocr import OCRHead
from heads.ppm import PPMHead
from heads.pyramid_oc import PyramidOCHead
from heads.upernet import UPerNetHead

__all__ = ["HEADS", "Channels", "ContextHead", "Features", "HeadOutput", "build_head"]

HEADS: dict[str, type[ContextHead]] = {
    "fcn": FCNHead,
    "ppm": PPMHead,
    "aspp": ASPPHead,
    "ocnet": OCNetHead,
    "pyramid_oc": PyramidOCHead,
    "asp_oc": ASPOCHead,
    "encnet": EncNetHead,
    "ocr": OCRHead,
    "isa": ISAHead,
    "double_attention": DoubleAttentionHead,
    "danet": DANetHead,
    "ccnet": CCNetHead,
    "asp_ocr": ASPOCRHead,
    "non_local": NonLocalHead,
    "dnlnet": DNLNetHead,
    "gcnet": GCNetHead,
    "emanet": EMANetHead,
    "deeplabv3plus": DeepLabV3PlusHead,
    "upernet": UPerNetHead,
}


def build_head(
    name: str | type[ContextHead],
    channels: Channels,
    num_classes: int,
    *,
    activation: str = "relu",
    **options: Any,
) -> ContextHead:
    """The head registered as `name`, for features of `channels` and K = `num_classes`.

    A class is taken as it is. `options` are keyword arguments of the head's class.
    `activation: leaky_relu`, an option of every head, is for networks that were published on
    in-place batch norm: it takes the place of every ReLU, also behind `aux`. Raises ValueError for
    an unknown head or option, naming the nearest and all allowed ones.
    """
    if isinstance(name, str) and name not in HEADS:
        raise ValueError(f"unknown head {name!r}{_alternatives(name, HEADS)}")
    head = HEADS[name] if isinstance(name, str) else name
    name = next((known for known, each in HEADS.items() if each is head), head.__name__)
    allowed = [*_options(head), "activation"]
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"head {name!r} has no option {option!r}{_alternatives(option, allowed)}"
            )
    built = head(channels, num_classes, **options)
    set_activation(built, activation)
    return built


def _options(head: type[ContextHead]) -> list[str]:
    parameters = inspect.signature(head).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def _alternatives(given: str, allowed: Iterable[str]) -> str:
    names = list(allowed)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} allowed: {', '.join(names)}"
