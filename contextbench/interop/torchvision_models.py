"""Checkpoints of torchvision's segmentation models: FCN and DeepLabV3 on ResNet-50 and -101.

Their builders allow one layout, so nothing has to be asked for: output stride 8, dilations 12, 24
and 36, RGB images with ImageNet's statistics, no aligned corners.
"""

from contextbench.config.protocols import BackboneConfig
from contextbench.interop.facts import Facts
from contextbench.interop.files import CheckpointFile, ImportedError
from contextbench.interop.residual import resnet_name, stem_name
from contextbench.interop.structure import Recognised

DILATIONS = (12, 24, 36)
UNTRAINED = "The branch on layer3, which no prediction needs, is not trained"


def recognise(file: CheckpointFile, facts: Facts) -> Recognised:
    """Raises `ImportedError` for what no model here is, `ConfigError` for any given fact."""
    facts.check()
    backbone = file.below("backbone.")
    name = resnet_name(backbone, f"the backbone of {file.path}")
    stem = stem_name([backbone.get("conv1.weight")], f"the backbone of {file.path}")
    if "layer1.0.conv3.weight" not in backbone or stem != "basic":
        raise ImportedError(
            f"import: {file.path} has {name} with a {stem} stem: torchvision's have blocks of "
            "three convolutions behind a 7x7 one"
        )
    head, options, names, last = _deeplab(file) if _has(file, "convs.4.1") else _fcn(file)
    auxiliary = _auxiliary(file)
    aux_width = {} if not auxiliary else {"aux_width": _rows(file, "aux_classifier.0.weight")}
    return Recognised(
        model=f"{head} of torchvision",
        backbone=BackboneConfig(name=name, stem="basic"),
        head=head,
        options={**options, **aux_width},
        num_classes=_rows(file, f"{last}.weight"),
        names={"backbone": "backbone", "head.classifier.1": last, **names, **auxiliary},
        untrained=() if auxiliary else ("head.auxiliary",),
        notes=[] if auxiliary else [UNTRAINED],
    )


def _has(file: CheckpointFile, module: str) -> bool:
    return any(f".{module}." in name for name in file.tensors)


def _rows(file: CheckpointFile, name: str) -> int:
    if name not in file.tensors:
        raise ImportedError(f"import: {file.path} has no tensor {name}: it is no model known here")
    return len(file.tensors[name])


Found = tuple[str, dict[str, object], dict[str, str], str]


def _fcn(file: CheckpointFile) -> Found:
    names = {"head.context.0.0": "classifier.0", "head.context.0.1": "classifier.1"}
    return "fcn", {"width": _rows(file, "classifier.0.weight")}, names, "classifier.4"


def _deeplab(file: CheckpointFile) -> Found:
    pyramid = "classifier.0"
    modules = {
        "head.context.0.pixel": f"{pyramid}.convs.0",
        **{f"head.context.0.atrous.{i}": f"{pyramid}.convs.{i + 1}" for i in range(len(DILATIONS))},
        "head.context.0.fuse": f"{pyramid}.project",
    }
    names = {
        **modules,
        "head.context.0.image.transform.0": f"{pyramid}.convs.4.1",
        "head.context.0.image.transform.1": f"{pyramid}.convs.4.2",
        "head.context.1.0": "classifier.1",
        "head.context.1.1": "classifier.2",
    }
    options: dict[str, object] = {
        "dilations": list(DILATIONS),
        "width": _rows(file, f"{pyramid}.project.0.weight"),
        "refine": True,
    }
    return "aspp", options, names, "classifier.4"


def _auxiliary(file: CheckpointFile) -> dict[str, str]:
    if not file.below("aux_classifier."):
        return {}
    return {
        "head.auxiliary.branch.0.0": "aux_classifier.0",
        "head.auxiliary.branch.0.1": "aux_classifier.1",
        "head.auxiliary.branch.1.1": "aux_classifier.4",
    }
