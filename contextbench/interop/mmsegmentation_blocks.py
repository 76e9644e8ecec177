"""Heads of mmsegmentation around a non-local block and its relatives, and its decoders."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from contextbench.interop.files import ImportedError
from contextbench.interop.mmsegmentation_heads import (
    HeadFound,
    Theirs,
    activation,
    atrous_pyramid,
    convolutions,
)
from contextbench.interop.structure import Change

FUSE = "head.context.fuse"
BLOCK = "head.context.attention"
NONE = (None, False)


def _around(theirs: Theirs) -> tuple[dict[str, Any], dict[str, str]]:
    """Options and names of the convolutions around a block. Raises `ImportedError` for others."""
    activation(theirs)
    found = convolutions(theirs)
    if found["convolutions"] != 2 or "kernel" in found:
        raise ImportedError(
            f"import: {theirs.prefix} has {found['convolutions']} convolutions around its block: "
            "two of 3x3 can be taken over"
        )
    names = {
        **theirs.layer("head.context.reduce", "convs.0"),
        **theirs.layer("head.context.refine", "convs.1"),
        **theirs.layer(f"{FUSE}.fuse", "conv_cat"),
    }
    width = theirs.rows("convs.0.conv.weight")
    return {"width": width, "concat_input": found["concat_input"]}, names


def _pairs(theirs: Theirs, block: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The same with theta, phi, g and U of a block with pairs."""
    options, names = _around(theirs)
    theirs.config.take("reduction")
    theirs.config.need("sub_sample", NONE)
    for part in ("theta", "phi", "g"):
        names[f"{BLOCK}.{part}"] = f"{theirs.prefix}.{block}.{part}.conv"
    names |= theirs.layer(f"{BLOCK}.output", f"{block}.conv_out")
    scaled = theirs.config.fact(theirs.facts, "scaled", "use_scale", True, True)
    key_channels = theirs.rows(f"{block}.theta.conv.weight")
    return {**options, "key_channels": key_channels, "scaled": scaled}, names


def _non_local(theirs: Theirs) -> HeadFound:
    options, names = _pairs(theirs, "nl_block")
    usual = "embedded_gaussian"
    pairwise = theirs.config.fact(theirs.facts, "pairwise", "mode", usual, usual)
    if pairwise not in (usual, "dot_product"):
        raise ImportedError(
            f"import: NLHead has mode {pairwise}: {usual} and dot_product can be taken over"
        )
    scaled = options["scaled"] and pairwise == usual  # what a product is divided by is h w
    return HeadFound("non_local", {**options, "pairwise": pairwise, "scaled": scaled}, names)


def _dnlnet(theirs: Theirs) -> HeadFound:
    options, names = _pairs(theirs, "dnl_block")
    theirs.config.need("mode", ("embedded_gaussian",), "embedded_gaussian")
    names[f"{BLOCK}.mask"] = f"{theirs.prefix}.dnl_block.conv_mask"
    temperature = theirs.config.fact(theirs.facts, "temperature", "temperature", 0.05, 0.05)
    return HeadFound("dnlnet", {**options, "temperature": temperature}, names)


def _gcnet(theirs: Theirs) -> HeadFound:
    options, names = _around(theirs)
    theirs.config.take("ratio")
    theirs.config.need("pooling_type", ("att",), "att")
    theirs.config.need("fusion_types", (("channel_add",),), ("channel_add",))
    names[f"{BLOCK}.key"] = f"{theirs.prefix}.gc_block.conv_mask"
    for index in (0, 1, 3):
        ours = f"{BLOCK}.transform.{index}"
        names[ours] = f"{theirs.prefix}.gc_block.channel_add_conv.{index}"
    bottleneck = theirs.rows("gc_block.channel_add_conv.0.weight")
    return HeadFound("gcnet", {**options, "bottleneck": bottleneck}, names)


def _emanet(theirs: Theirs) -> HeadFound:
    activation(theirs)
    for key in ("ema_channels", "num_bases", "concat_input"):
        theirs.config.take(key)
    stages = theirs.config.fact(theirs.facts, "stages", "num_stages", 3, 3)
    momentum = theirs.config.take("momentum", 0.1)
    bases, concat_input = f"{BLOCK}.bases", theirs.has("conv_cat")
    names = {
        **theirs.layer("head.context.reduce", "ema_in_conv"),
        f"{bases}.projection": f"{theirs.prefix}.ema_mid_conv.conv.weight",
        f"{bases}.offset": f"{theirs.prefix}.ema_mid_conv.conv.bias",
        f"{bases}.running": f"{theirs.prefix}.ema_module.bases",
        f"{BLOCK}.output.1": f"{theirs.prefix}.ema_out_conv.conv",
        f"{BLOCK}.output.2": f"{theirs.prefix}.ema_out_conv.bn",
        **theirs.layer("head.context.refine", "bottleneck"),
        **theirs.layer(f"{FUSE}.fuse", "conv_cat"),
    }
    changed: dict[str, Change] = {
        f"{bases}.projection": lambda weight: weight.flatten(1),
        f"{bases}.running": lambda running: running[0],
    }
    options = {
        "width": theirs.rows("bottleneck.conv.weight"),
        "inner_channels": theirs.rows("ema_in_conv.conv.weight"),
        "bases": theirs.tensors["ema_module.bases"].shape[-1],
        "stages": stages,
        "concat_input": concat_input,
        **({"momentum": 1 - momentum} if isinstance(momentum, float) else {}),
    }
    return HeadFound("emanet", options, names, changed)


def _deeplabv3plus(theirs: Theirs) -> HeadFound:
    for key in ("c1_in_channels", "c1_channels"):
        theirs.config.take(key)
    kind, encoder = "DepthwiseSeparableASPPHead", "head.context.encoder"
    if not theirs.has("c1_bottleneck"):
        raise ImportedError(f"import: {kind} without layer1 is not known here")
    dilations, found = atrous_pyramid(theirs, kind, "deeplabv3plus", encoder)
    names = {
        **found.names,
        **theirs.layer("head.context.low", "c1_bottleneck"),
        **_separable(theirs, FUSE, "sep_bottleneck.0"),
        **_separable(theirs, "head.context.refine", "sep_bottleneck.1"),
    }
    for index in range(len(dilations)):
        names |= _separable(theirs, f"{encoder}.atrous.{index}", f"aspp_modules.{index + 1}")
    low = theirs.rows("c1_bottleneck.conv.weight")
    options = {**found.options, "low_channels": low, "separable": True}
    return replace(found, options=options, names=names)


def _separable(theirs: Theirs, ours: str, name: str) -> dict[str, str]:
    each = theirs.layer(f"{ours}.0", f"{name}.depthwise_conv")
    return each | theirs.layer(f"{ours}.1", f"{name}.pointwise_conv")


def _upernet(theirs: Theirs) -> HeadFound:
    activation(theirs)
    bins = theirs.config.fact(theirs.facts, "bins", "pool_scales", (1, 2, 3, 6), (1, 2, 3, 6))
    names = {
        **theirs.layer("head.context.top.fuse", "bottleneck"),
        **theirs.layer(f"{FUSE}.fuse", "fpn_bottleneck"),
    }
    for index in range(len(bins)):
        ours = f"head.context.top.branches.{index}.transform"
        names |= theirs.layer(ours, f"psp_modules.{index}.1")
    for index in range(3):
        names |= theirs.layer(f"head.context.laterals.{index}", f"lateral_convs.{index}")
        names |= theirs.layer(f"head.context.pyramid.{index}", f"fpn_convs.{index}")
    options = {"bins": list(bins), "width": theirs.rows("bottleneck.conv.weight")}
    return HeadFound("upernet", options, names)


HEADS: dict[str, Callable[[Theirs], HeadFound]] = {
    "NLHead": _non_local,
    "DNLHead": _dnlnet,
    "GCHead": _gcnet,
    "EMAHead": _emanet,
    "DepthwiseSeparableASPPHead": _deeplabv3plus,
    "UPerHead": _upernet,
}
