"""Checkpoints of segmentation-models-pytorch: DeepLabV3 on ResNets.

It resizes logits by a factor, with aligned corners, and takes only images whose sides the output
stride divides. Its PSPNet pools the second stage of an encoder and fuses with a 1x1 convolution,
which is no head here.
"""

from dataclasses import replace

from contextbench.config.protocols import BackboneConfig
from contextbench.interop.facts import Facts
from contextbench.interop.files import CheckpointFile, ImportedError
from contextbench.interop.inputs import inputs_of
from contextbench.interop.layouts import Layout, Network, found_in, layout_of
from contextbench.interop.literals import UNREADABLE
from contextbench.interop.residual import resnet_name, stem_name
from contextbench.interop.structure import Recognised

SOURCE = "segmentation-models-pytorch"
ASPP = Layout(
    head="aspp",
    mark="decoder.aspp.convs",
    layers={
        "head.context.0.pixel": "decoder.aspp.convs.0.0",
        **{f"head.context.0.atrous.{i}": f"decoder.aspp.convs.{i + 1}.0" for i in range(3)},
        "head.context.0.image.transform": "decoder.aspp.convs.4.1",
        "head.context.0.fuse": "decoder.aspp.project.0",
    },
    names={"head.context.1.0": "decoder.conv", "head.context.1.1": "decoder.bn"},
    widths={"width": "decoder.conv"},
    classifier="segmentation_head",
    dropped=("classification_head", "encoder.fc"),
)


def recognise(file: CheckpointFile, facts: Facts) -> Recognised:
    """Raises `ImportedError` for what no model here is, `ConfigError` for facts that lack."""
    layout = layout_of(file, (ASPP,), SOURCE)
    tensors, source = file.below("encoder."), f"the encoder of {file.path}"
    name = resnet_name(tensors, source)
    stem = stem_name([tensors.get("conv1.weight")], source)
    stride = facts.of("output_stride", UNREADABLE, 8)
    dilations = facts.of("dilations", UNREADABLE, (12, 24, 36))
    if stride not in (8, 16) or len(dilations) != 3:
        raise ImportedError(
            f"import: output_stride {stride} and dilations {dilations}: 8 or 16 and three are what "
            f"{SOURCE} has"
        )
    network = Network(
        source=SOURCE,
        backbone=BackboneConfig(
            name=name,
            stem=stem,
            output_stride=stride,
            entry_dilation="own",
            inputs=inputs_of(facts),
        ),
        names={"backbone": "encoder"},
    )
    options = {"dilations": list(dilations), "refine": True}
    return found_in(file, replace(layout, options=options), network, facts)
