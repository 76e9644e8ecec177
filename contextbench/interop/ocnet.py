"""Checkpoints of OCNet.pytorch: base, pyramid and ASP object context on a dilated ResNet-101.

Its code allows one layout, so nothing is asked for: output stride 8, ReLU of in-place batch norm,
aligned corners, RGB images less the mean of another code base's BGR, in 0 .. 255.
"""

import torch

from contextbench.config.protocols import BackboneConfig, InputsConfig
from contextbench.interop.facts import Facts
from contextbench.interop.files import CheckpointFile, ImportedError
from contextbench.interop.inputs import CAFFE_MEAN
from contextbench.interop.layouts import Layout, Network, found_in, layout_of
from contextbench.interop.residual import resnet_name, stem_name
from contextbench.interop.structure import Recognised
from contextbench.models.backbone import DEEP_STEM_NAMES

SOURCE = "OCNet.pytorch"
STEM = DEEP_STEM_NAMES["names of PyTorch-Encoding (conv1.0)"]
THEIR_STEM = DEEP_STEM_NAMES["names of semseg (conv1, conv2, conv3)"]
INPUTS = InputsConfig(order="rgb", mean=CAFFE_MEAN, std=(1.0, 1.0, 1.0))
BINS = (1, 2, 3, 6)
AUTHORS = {"release": "authors"}


def _attention(ours: str, theirs: str) -> tuple[dict[str, str], dict[str, str]]:
    """Layers and plain names of a self-attention block, whose queries are its keys."""
    return (
        {f"{ours}.key": f"{theirs}.f_key.0"},
        {f"{ours}.value": f"{theirs}.f_value", f"{ours}.output": f"{theirs}.W"},
    )


def _base() -> Layout:
    layers, names = _attention("head.context.attention", "context.2.stages.0")
    return Layout(
        head="ocnet",
        mark="context.2.stages",
        layers={
            **layers,
            "head.context.reduce": "context.0",
            "head.context.fuse": "context.2.conv_bn_dropout.0",
        },
        names=names,
        widths={
            "width": "context.0",
            "key_channels": "context.2.stages.0.f_key.0",
            "value_channels": "context.2.stages.0.f_value",
        },
        classifier="cls",
        auxiliary="dsn",
        options=AUTHORS,
        dropped=("context.2.stages.0.f_query",),
    )


def _asp() -> Layout:
    inner = "context.2.context.2.stages.0"
    layers, names = _attention("head.context.object.attention", inner)
    return Layout(
        head="asp_oc",
        mark="context.2.context",
        layers={
            **layers,
            "head.context.reduce": "context.0",
            "head.context.object.local": "context.2.context.0",
            "head.context.object.activate": "context.2.context.2.conv_bn_dropout.0",
            "head.context.pixel": "context.2.conv2.0",
            **{f"head.context.atrous.{i}": f"context.2.conv{i + 3}.0" for i in range(3)},
            "head.context.fuse": "context.2.conv_bn_dropout.0",
        },
        names=names,
        widths={
            "width": "context.0",
            "branch_width": "context.2.conv2.0",
            "key_channels": f"{inner}.f_key.0",
            "value_channels": f"{inner}.f_value",
        },
        classifier="cls",
        auxiliary="dsn",
        options={**AUTHORS, "dilations": [12, 24, 36]},
        dropped=(f"{inner}.f_query",),
    )


def _pyramid() -> Layout:
    layers: dict[str, str] = {}
    names: dict[str, str] = {}
    dropped = []
    for index in range(len(BINS)):
        block = f"context.stages.{index}"
        inside, beside = _attention(f"head.context.levels.{index}", block)
        layers |= inside
        names |= beside
        dropped.append(f"{block}.f_query")
    return Layout(
        head="pyramid_oc",
        mark="context.up_dr",
        layers={
            **layers,
            "head.context.reduce": "layer5.0",
            "head.context.widen": "context.up_dr.0",
            "head.context.fuse": "context.conv_bn_dropout.0",
        },
        names=names,
        widths={
            "width": "layer5.0",
            "key_channels": "context.stages.0.f_key.0",
            "value_channels": "context.stages.0.f_value",
        },
        classifier="cls",
        auxiliary="dsn",
        options={**AUTHORS, "bins": list(BINS)},
        dropped=dropped,
    )


def _baseline() -> Layout:
    return Layout(
        head="fcn",
        mark="layer6",
        layers={"head.context.0": "layer5.0"},
        widths={"width": "layer5.0"},
        classifier="layer6",
    )


LAYOUTS = (_pyramid(), _asp(), _base(), _baseline())


def recognise(file: CheckpointFile, facts: Facts) -> Recognised:
    """Raises `ImportedError` for what no model here is, `ConfigError` for any given fact."""
    layout = layout_of(file, LAYOUTS, SOURCE)
    source = f"the backbone of {file.path}"
    name = resnet_name({n: t for n, t in file.tensors.items() if n.startswith("layer")}, source)
    stem = stem_name([file.tensors.get(f"{each}.weight") for each in THEIR_STEM[::2]], source)
    _check_queries(file, layout)
    stages = {f"backbone.layer{n}": f"layer{n}" for n in (1, 2, 3, 4)}
    pairs = zip(STEM, THEIR_STEM, strict=True)
    network = Network(
        source=SOURCE,
        backbone=BackboneConfig(
            name=name, stem=stem, entry_dilation="own", ceil_pool=True, inputs=INPUTS
        ),
        names={**stages, **{f"backbone.{ours}": theirs for ours, theirs in pairs}},
        in_place=True,
    )
    return found_in(file, layout, network, facts)


def _check_queries(file: CheckpointFile, layout: Layout) -> None:
    """Queries and keys are one module there, so that a file has it twice."""
    for query in layout.dropped:
        for name, tensor in file.below(f"{query}.").items():
            key = file.tensors.get(f"{query.replace('f_query', 'f_key')}.{name}")
            if key is None or not torch.equal(key, tensor):
                raise ImportedError(
                    f"import: {file.path}: {query}.{name} is not what f_key has: queries and keys "
                    "are one transform in OCNet.pytorch; is it of openseg?"
                )
