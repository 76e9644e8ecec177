"""Checkpoints of PyTorch-Encoding: FCN, PSPNet, DeepLabV3 and EncNet on dilated ResNets.

Aligned corners throughout, RGB images with ImageNet's statistics. EncNet is in the authors' form,
with the scale of its codewords stored with a minus.
"""

import torch

from contextbench.config.protocols import BackboneConfig
from contextbench.interop.facts import Facts
from contextbench.interop.files import CheckpointFile, ImportedError
from contextbench.interop.layouts import Layout, Network, found_in, layout_of
from contextbench.interop.literals import UNREADABLE
from contextbench.interop.residual import resnet_name, stem_name
from contextbench.interop.structure import Recognised
from contextbench.models.backbone import DEEP_STEM_NAMES

SOURCE = "PyTorch-Encoding"
STEM = DEEP_STEM_NAMES["names of PyTorch-Encoding (conv1.0)"]
AUXILIARY = "auxlayer.conv5"
ENCODER = "head.context.encoder"

FCN = Layout(
    head="fcn",
    mark="head.conv5",
    layers={"head.context.0": "head.conv5.0"},
    widths={"width": "head.conv5.0"},
    classifier="head.conv5",
    auxiliary=AUXILIARY,
)
PPM = Layout(
    head="ppm",
    mark="head.conv5.0",
    layers={
        **{f"head.context.branches.{i}.transform": f"head.conv5.0.conv{i + 1}.0" for i in range(4)},
        "head.context.fuse": "head.conv5.1",
    },
    widths={"width": "head.conv5.1", "pool_width": "head.conv5.0.conv1.0"},
    classifier="head.conv5",
    auxiliary=AUXILIARY,
    options={"bins": [1, 2, 3, 6]},
)
ASPP = Layout(
    head="aspp",
    mark="head.aspp",
    layers={
        "head.context.0.pixel": "head.aspp.b0.0",
        **{f"head.context.0.atrous.{i}": f"head.aspp.b{i + 1}.0" for i in range(3)},
        "head.context.0.image.transform": "head.aspp.b4.gap.1",
        "head.context.0.fuse": "head.aspp.project.0",
        "head.context.1": "head.block.0",
    },
    widths={"width": "head.aspp.project.0"},
    classifier="head.block",
    auxiliary=AUXILIARY,
    options={"dilations": [12, 24, 36], "refine": True},
)


def _encnet(*, lateral: bool, se_loss: bool, codewords: int) -> Layout:
    encoding = "head.encmodule.encoding"
    reduce = {f"{ENCODER}.reduce": "head.conv5.0"}
    if lateral:
        reduce = {
            f"{ENCODER}.reduce.deepest": "head.conv5.0",
            f"{ENCODER}.reduce.laterals.0": "head.connect.0.0",
            f"{ENCODER}.reduce.laterals.1": "head.connect.1.0",
            f"{ENCODER}.reduce.fuse": "head.fusion.0",
        }
    return Layout(
        head="encnet",
        mark="head.encmodule",
        layers={**reduce, f"{ENCODER}.before": f"{encoding}.0"},
        names={
            f"{ENCODER}.encoding": f"{encoding}.3",
            f"{ENCODER}.norm.0": f"{encoding}.4",
            "head.context.gate": "head.encmodule.fc.0",
            "head.presence": "head.encmodule.selayer",
        },
        widths={"width": "head.conv5.0"},
        classifier="head.conv6",
        auxiliary=AUXILIARY,
        options={
            "release": "authors",
            "codewords": codewords,
            "se_loss": se_loss,
            "lateral": lateral,
        },
        changed={f"{ENCODER}.encoding.scale": torch.neg},
    )


def recognise(file: CheckpointFile, facts: Facts) -> Recognised:
    """Raises `ImportedError` for what no model here is, `ConfigError` for facts that lack."""
    layout = layout_of(file, _layouts(file), SOURCE)
    tensors, source = file.below("pretrained."), f"the backbone of {file.path}"
    deep = "conv1.0.weight" in tensors
    first = STEM[::2] if deep else ("conv1",)
    name = resnet_name(tensors, source)
    stem = stem_name([tensors.get(f"{each}.weight") for each in first], source)
    stride = facts.of("output_stride", UNREADABLE, 8)
    if stride not in (8, 32):
        raise ImportedError(
            f"import: output_stride {stride}: networks of {SOURCE} have 8, or 32 undilated"
        )
    network = Network(
        source=SOURCE,
        backbone=BackboneConfig(name=name, stem=stem, output_stride=stride),
        names={"backbone": "pretrained"},
        dropped=("pretrained.fc",),
    )
    return found_in(file, layout, network, facts)


def _layouts(file: CheckpointFile) -> tuple[Layout, ...]:
    """Those whose parts vary, as this file has them, in front of those they contain."""
    codewords = file.tensors.get("head.encmodule.encoding.3.codewords")
    encnet = _encnet(
        lateral=bool(file.below("head.connect.")),
        se_loss=bool(file.below("head.encmodule.selayer.")),
        codewords=0 if codewords is None else len(codewords),
    )
    pooled = (PPM,) if file.below("head.conv5.0.conv1.") else ()
    return (encnet, ASPP, *pooled, FCN)
