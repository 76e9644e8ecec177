"""Checkpoints of torchvision's segmentation models: FCN and DeepLabV3 on ResNet-50 and -101.

Their builders allow one layout, so nothing has to be asked for: output stride 8, dilations 12, 24
and 36, RGB images with ImageNet's statistics, no aligned corners.
"""

from contextbench.config.protocols import BackboneConfig
from contextbench.interop.facts import Facts
from contextbench.interop.files import CheckpointFile, ImportedError
from contextbench.interop.layouts import Layout, Network, found_in, layout_of
from contextbench.interop.residual import resnet_name, stem_name
from contextbench.interop.structure import Recognised

SOURCE = "torchvision"
ASPP = Layout(
    head="aspp",
    mark="classifier.0.convs",
    layers={
        "head.context.0.pixel": "classifier.0.convs.0.0",
        **{f"head.context.0.atrous.{i}": f"classifier.0.convs.{i + 1}.0" for i in range(3)},
        "head.context.0.image.transform": "classifier.0.convs.4.1",
        "head.context.0.fuse": "classifier.0.project.0",
        "head.context.1": "classifier.1",
    },
    widths={"width": "classifier.0.project.0"},
    classifier="classifier",
    auxiliary="aux_classifier",
    options={"dilations": [12, 24, 36], "refine": True},
)
FCN = Layout(
    head="fcn",
    mark="classifier.4",
    layers={"head.context.0": "classifier.0"},
    widths={"width": "classifier.0"},
    classifier="classifier",
    auxiliary="aux_classifier",
)


def recognise(file: CheckpointFile, facts: Facts) -> Recognised:
    """Raises `ImportedError` for what no model here is, `ConfigError` for any given fact."""
    backbone, source = file.below("backbone."), f"the backbone of {file.path}"
    name = resnet_name(backbone, source)
    stem = stem_name([backbone.get("conv1.weight")], source)
    if "layer1.0.conv3.weight" not in backbone or stem != "basic":
        raise ImportedError(
            f"import: {file.path} has {name} with a {stem} stem: torchvision's have blocks of "
            "three convolutions behind a 7x7 one"
        )
    network = Network(
        source=SOURCE,
        backbone=BackboneConfig(name=name, stem="basic"),
        names={"backbone": "backbone"},
        align_corners=False,
    )
    return found_in(file, layout_of(file, (ASPP, FCN), SOURCE), network, facts)
