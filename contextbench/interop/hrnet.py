"""Checkpoints of HRNet-Semantic-Segmentation: HRNet with its own classifier, and with OCR.

Images are RGB with ImageNet's statistics; aligned corners are those of its configurations.
"""

from collections.abc import Mapping

from torch import Tensor

from contextbench.config.protocols import BackboneConfig
from contextbench.interop.facts import Facts
from contextbench.interop.files import CheckpointFile, ImportedError
from contextbench.interop.layouts import Layout, Network, found_in, layout_of
from contextbench.interop.literals import UNREADABLE
from contextbench.interop.structure import Recognised
from contextbench.models.hrnet import HRNETS

SOURCE = "HRNet-Semantic-Segmentation"
STAGES = ("conv1", "bn1", "conv2", "bn2", "layer1", "transition1", "transition2", "transition3",
          "stage2", "stage3", "stage4")  # fmt: skip
# Where the network lies in a file that has its criterion too, and the criterion's class weights.
WRAPPED, CRITERION = "model.", "loss"


def is_hrnet(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("stage4.") for name in tensors)


def hrnet_name(tensors: Mapping[str, Tensor], source: str) -> str:
    """Of tensors named as the authors'. Raises `ImportedError` for a network of another kind."""
    places = {tuple(name.split(".")) for name in tensors}
    width = tensors.get("transition1.0.0.weight")
    modules = tuple(
        len({parts[1] for parts in places if parts[0] == f"stage{n}"}) for n in (2, 3, 4)
    )
    bottlenecks = len({parts[1] for parts in places if parts[0] == "layer1"})
    blocks = len({parts[4] for parts in places if parts[:4] == ("stage2", "0", "branches", "0")})
    for name, spec in HRNETS.items():
        same = (spec.bottlenecks, spec.modules, spec.blocks) == (bottlenecks, modules, blocks)
        if same and width is not None and len(width) == spec.width:
            return name
    raise ImportedError(
        f"import: {source} has {bottlenecks} bottlenecks, stages of {modules} modules and branches "
        f"of {blocks} blocks, which no HRNet here has; known: {', '.join(HRNETS)}"
    )


def region_layers(block: str) -> dict[str, str]:
    """Layers of the object attention in the code of OCR's authors, and in code after it."""
    ours = "head.context.regions"
    return {
        f"{ours}.relation.phi.0": f"{block}.f_pixel.0",
        f"{ours}.relation.phi.1": f"{block}.f_pixel.2",
        f"{ours}.relation.psi.0": f"{block}.f_object.0",
        f"{ours}.relation.psi.1": f"{block}.f_object.2",
        f"{ours}.delta": f"{block}.f_down.0",
        f"{ours}.rho": f"{block}.f_up.0",
    }


BLOCK = "ocr_distri_head.object_context_block"
OCR = Layout(
    head="ocr",
    mark="conv3x3_ocr",
    layers={
        **region_layers(BLOCK),
        "head.context.reduce": "conv3x3_ocr.0",
        "head.context.fuse.fuse": "ocr_distri_head.conv_bn_dropout.0",
    },
    widths={"width": "conv3x3_ocr.0", "key_channels": f"{BLOCK}.f_down.0"},
    classifier="cls_head",
    coarse="aux_head",
    options={"transforms": 2},
)
FCN = Layout(
    head="fcn",
    mark="last_layer",
    layers={"head.context.0": "last_layer.0"},
    widths={"width": "last_layer.0"},
    kernels={"kernel": "last_layer.0"},
    classifier="last_layer",
)


def recognise(file: CheckpointFile, facts: Facts) -> Recognised:
    """Raises `ImportedError` for what no model here is, `ConfigError` for facts that lack."""
    wrapped = any(name.startswith(f"{WRAPPED}stage4.") for name in file.tensors)
    prefix = WRAPPED if wrapped else ""
    file = file.without(prefix)
    layout = layout_of(file, (OCR, FCN), SOURCE)
    aligned = facts.of("align_corners", UNREADABLE, layout is OCR)
    name = hrnet_name(file.tensors, f"the backbone of {file.path}")
    network = Network(
        source=SOURCE,
        backbone=BackboneConfig(name=name, output_stride=4),
        names={f"backbone.{each}": each for each in STAGES},
        align_corners=aligned,
        dropped=(CRITERION,),
        prefix=prefix,
    )
    return found_in(file, layout, network, facts)
