"""Checkpoints of openseg.pytorch: OCR, OCNet, ISA and FCN on dilated ResNets and on HRNet.

Aligned corners throughout. Whether batch norm was an in-place one, whose ReLU is leaky, shows in
the names of tensors; what images they were trained on shows in `config_dict`, where a file has it:
in published ones BGR less a mean, or the statistics of RGB, in that order, on BGR with HRNet.
"""

from collections.abc import Mapping
from typing import Any

from contextbench.config.protocols import BackboneConfig, InputsConfig
from contextbench.interop.configurations import Part
from contextbench.interop.facts import Facts
from contextbench.interop.files import CheckpointFile, ImportedError
from contextbench.interop.hrnet import hrnet_name, is_hrnet, region_layers
from contextbench.interop.inputs import CAFFE_MEAN, IMAGENET, inputs_of
from contextbench.interop.layouts import Layout, Network, found_in, layout_of
from contextbench.interop.literals import UNREADABLE
from contextbench.interop.residual import resnet_name, stem_name
from contextbench.interop.structure import Recognised, halves_swapped
from contextbench.models.backbone import DEEP_STEM_NAMES, STEM_NAMES

SOURCE = "openseg.pytorch"
RESINIT = "names of openseg.pytorch (resinit)"
RESNET_INPUTS = InputsConfig(order="bgr", mean=CAFFE_MEAN, std=(1.0, 1.0, 1.0))
HRNET_INPUTS = IMAGENET.model_copy(update={"order": "bgr"})


def _transforms(ours: str, theirs: str) -> dict[str, str]:
    """Two layers one behind the other."""
    return {f"{ours}.0": f"{theirs}.0", f"{ours}.1": f"{theirs}.2"}


def _attention(ours: str, theirs: str) -> dict[str, str]:
    return {
        **_transforms(f"{ours}.query", f"{theirs}.f_query"),
        **_transforms(f"{ours}.key", f"{theirs}.f_key"),
    }


def _ocr(reduce: str, module: str, classifier: str, coarse: str) -> Layout:
    block = f"{module}.object_context_block"
    return Layout(
        head="ocr",
        mark=module,
        layers={
            **region_layers(block),
            "head.context.reduce": f"{reduce}.0",
            "head.context.fuse.fuse": f"{module}.conv_bn_dropout.0",
        },
        widths={"width": f"{reduce}.0", "key_channels": f"{block}.f_down.0"},
        classifier=classifier,
        coarse=coarse,
        options={"transforms": 2},
    )


def _asp_ocr(classifier: str, coarse: str, dilations: list[int], *, unbiased: bool) -> Layout:
    module = "asp_ocr_head"
    block = f"{module}.context.2.object_context_block"
    return Layout(
        head="asp_ocr",
        mark=module,
        layers={
            **region_layers(block),
            "head.context.reduce": f"{module}.context.0",
            "head.context.pixel": f"{module}.conv2.0",
            **{f"head.context.atrous.{i}": f"{module}.conv{i + 3}.0" for i in range(3)},
            "head.context.fuse": f"{module}.conv_bn_dropout.0",
        },
        widths={
            "width": f"{module}.conv_bn_dropout.0",
            "context_width": f"{module}.context.0",
            "branch_width": f"{module}.conv2.0",
            "key_channels": f"{block}.f_down.0",
        },
        classifier=classifier,
        coarse=coarse,
        options={"transforms": 2, "dilations": dilations},
        unbiased=unbiased,
    )


BASE_OC = Layout(
    head="ocnet",
    mark="oc_module_pre",
    layers={
        **_attention("head.context.attention", "oc_module.stages.0"),
        "head.context.reduce": "oc_module_pre.0",
        "head.context.fuse": "oc_module.conv_bn_dropout.0",
    },
    names={
        "head.context.attention.value": "oc_module.stages.0.f_value",
        "head.context.attention.output": "oc_module.stages.0.W",
    },
    widths={
        "width": "oc_module_pre.0",
        "key_channels": "oc_module.stages.0.f_key.0",
        "value_channels": "oc_module.stages.0.f_value",
    },
    classifier="cls",
    auxiliary="dsn",
    options={"share_key_query": False, "transforms": 2},
)
POOLED = "context.2.context.2"
ASP_OC = Layout(
    head="asp_oc",
    mark="context.2.context",
    layers={
        **_attention("head.context.object.attention", f"{POOLED}.stages.0"),
        "head.context.reduce": "context.0",
        "head.context.object.local": "context.2.context.0",
        "head.context.pixel": "context.2.conv2.0",
        **{f"head.context.atrous.{i}": f"context.2.conv{i + 3}.0" for i in range(3)},
        "head.context.fuse": "context.2.conv_bn_dropout.0",
    },
    names={
        "head.context.object.attention.value": f"{POOLED}.stages.0.f_value",
        "head.context.object.attention.output": f"{POOLED}.stages.0.W",
        "head.context.object.activate.0": f"{POOLED}.conv_bn_dropout.0",
    },
    widths={
        "width": "context.0",
        "branch_width": "context.2.conv2.0",
        "key_channels": f"{POOLED}.stages.0.f_key.0",
        "value_channels": f"{POOLED}.stages.0.f_value",
    },
    classifier="cls",
    auxiliary="dsn",
    options={"share_key_query": False, "transforms": 2, "dilations": [12, 24, 36]},
)
FAR, NEAR = (f"isa_head.2.stages.0.{each}_range_sa" for each in ("long", "short"))
ISA = Layout(
    head="isa",
    mark="isa_head",
    layers={
        **_attention("head.context.attention.far", FAR),
        **_attention("head.context.attention.near", NEAR),
        "head.context.attention.far.output": f"{FAR}.W.0",
        "head.context.attention.near.output": f"{NEAR}.W.0",
        "head.context.reduce": "isa_head.0",
        "head.context.fuse.fuse": "isa_head.2.conv_bn.0",
    },
    names={
        "head.context.attention.far.value": f"{FAR}.f_value",
        "head.context.attention.near.value": f"{NEAR}.f_value",
    },
    widths={"width": "isa_head.0", "key_channels": f"{FAR}.f_key.0"},
    classifier="cls_head",
    auxiliary="dsn_head",
    facts={"down_factor": (8, 8)},
    changed={"head.context.fuse.fuse.0.weight": halves_swapped},
)
FCN = Layout(
    head="fcn",
    mark="cls_head",
    layers={"head.context.0": "cls_head.0"},
    widths={"width": "cls_head.0"},
    kernels={"kernel": "cls_head.0"},
    classifier="cls_head",
    auxiliary="dsn_head",
    unbiased=True,
)
RESNET = (
    _ocr("conv_3x3", "spatial_ocr_head", "head", "dsn_head"),
    _asp_ocr("head", "dsn_head", [12, 24, 36], unbiased=False),
    BASE_OC,
    ASP_OC,
    ISA,
    FCN,
)
HRNET = (
    _ocr("conv3x3", "ocr_distri_head", "cls_head", "aux_head"),
    _asp_ocr("cls_head", "aux_head", [24, 48, 72], unbiased=True),
    FCN,
)


def recognise(file: CheckpointFile, facts: Facts) -> Recognised:
    """Raises `ImportedError` for what no model here is, `ConfigError` for facts that lack."""
    backbone = file.below("backbone.")
    source = f"the backbone of {file.path}"
    hrnet = is_hrnet(backbone)
    layout = layout_of(file, HRNET if hrnet else RESNET, SOURCE)
    config = Part("config_dict", file.config)
    images = _stated_inputs(config)
    rgb = "rgb" in (images["order"], facts.given.get("inputs"))
    on_hrnet = IMAGENET if rgb else HRNET_INPUTS
    inputs = inputs_of(facts, on_hrnet if hrnet else RESNET_INPUTS, **images)
    stated = _stated(config.part("network"))
    # In a Sequential with its ReLU, a batch norm is one level deeper than an in-place one.
    norms = {f"{name.rpartition('.')[0]}" for name in file.tensors if "running_mean" in name}
    in_place = any(_behind(each) in norms for each in layout.layers.values())
    if hrnet:
        built = BackboneConfig(name=hrnet_name(backbone, source), output_stride=4, inputs=inputs)
        names = {"backbone": "backbone"}
    else:
        built, names = _resnet(file, facts, inputs, source, stated)
    network = Network(source=SOURCE, backbone=built, names=names, in_place=in_place, stated=stated)
    return found_in(file, layout, network, facts)


def _stated_inputs(config: Part) -> dict[str, Any]:
    """What `config_dict` says of images; divided by 255 or not, in 0 .. 255 here."""
    mode = config.part("data").take("input_mode", UNREADABLE)
    order = {"BGR": "bgr", "RGB": "rgb"}.get(mode, mode) if isinstance(mode, str) else UNREADABLE
    given = config.part("normalize")
    unit, mean, std = (given.take(key, UNREADABLE) for key in ("div_value", "mean", "std"))
    numbers = isinstance(unit, int | float) and isinstance(mean, tuple) and isinstance(std, tuple)
    if not numbers:
        return {"order": order}
    scaled = (tuple(each * unit for each in values) for values in (mean, std))
    return {"order": order, **dict(zip(("mean", "std"), scaled, strict=True))}


def _stated(network: Part) -> dict[str, Any]:
    """Facts in `config_dict.network`, UNREADABLE where it does not say them."""
    factors = network.take("factors", UNREADABLE)
    single = isinstance(factors, tuple) and len(factors) == 1
    return {
        "output_stride": network.take("stride", UNREADABLE),
        "multi_grid": network.take("multi_grid", UNREADABLE),
        "down_factor": factors[0] if single else UNREADABLE,
    }


def _behind(convolution: str) -> str:
    before, _, at = convolution.rpartition(".")
    return f"{before}.{int(at) + 1}"


def _resnet(
    file: CheckpointFile,
    facts: Facts,
    inputs: InputsConfig | None,
    source: str,
    stated: Mapping[str, Any],
) -> tuple[BackboneConfig, dict[str, str]]:
    tensors = file.below("backbone.")
    deep = "resinit.conv2.weight" in tensors
    theirs = (DEEP_STEM_NAMES if deep else STEM_NAMES)[RESINIT]
    ours = (
        DEEP_STEM_NAMES["names of PyTorch-Encoding (conv1.0)"]
        if deep
        else STEM_NAMES["names of torchvision"]
    )
    stem = stem_name([tensors.get(f"{each}.weight") for each in theirs[::2]], source)
    stride = facts.of("output_stride", stated["output_stride"], 8)
    grid = facts.of("multi_grid", stated["multi_grid"], (1, 1, 1))
    if stride not in (8, 16) or grid != (1, 1, 1):
        raise ImportedError(
            f"import: output_stride {stride} and multi_grid {grid}: of openseg.pytorch's networks "
            "those of output stride 8 or 16 without a multi-grid can be taken over"
        )
    config = BackboneConfig(
        name=resnet_name(tensors, source),
        stem=stem,
        output_stride=stride,
        ceil_pool=True,
        inputs=inputs,
    )
    pairs = zip(ours, theirs, strict=True)
    return config, {"backbone": "backbone", **{f"backbone.{a}": f"backbone.{b}" for a, b in pairs}}
