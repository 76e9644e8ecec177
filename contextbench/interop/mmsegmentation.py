"""Checkpoints of mmsegmentation, 0.x and 1.x: dilated ResNets with heads that exist here.

What no tensor shows is read from the configuration in the file (`meta.cfg`), where there is one.
Aligned corners, other inputs than RGB of ImageNet's statistics and blocks of another layout are
refused: no model here computes that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from contextbench.config.protocols import BackboneConfig
from contextbench.data.transforms import MEAN, STD
from contextbench.interop.configurations import Part
from contextbench.interop.facts import Facts
from contextbench.interop.files import CheckpointFile, ImportedError
from contextbench.interop.literals import UNREADABLE
from contextbench.interop.residual import output_stride, resnet_name, stem_name
from contextbench.interop.structure import Change, Recognised, convolved
from contextbench.models.backbone import DEEP_STEM_NAMES, strides_and_rates

# What trains, starts or regularises a model, and changes nothing of the trained one's function.
HARMLESS = (
    "type", "init_cfg", "pretrained", "norm_cfg", "norm_eval", "with_cp", "frozen_stages",
    "zero_init_residual", "depth", "in_channels", "channels", "num_classes", "out_channels",
    "dropout_ratio", "loss_decode", "loss_se_decode", "ignore_index", "sampler", "threshold",
)  # fmt: skip
STEM = DEEP_STEM_NAMES["names of PyTorch-Encoding (conv1.0)"]  # ours
THEIR_STEM = DEEP_STEM_NAMES["names of mmsegmentation (stem)"]
RELU, LEAKY = "relu", "leaky_relu"

# A tensor that only this head has, the first that is there counts; heads built on another head
# come before it. Those that are not in `HEADS` are named in the message that refuses them.
MARKS = {
    "fpn_bottleneck": "UPerHead",
    "c1_bottleneck": "DepthwiseSeparableASPPHead",
    "psp_modules": "PSPHead",
    "aspp_modules": "ASPPHead",
    "enc_module": "EncHead",
    "cca": "CCHead",
    "pam": "DAHead",
    "global_relation": "ISAHead",
    "nonlocal_block": "NLHead",
    "dnl_block": "DNLHead",
    "gc_block": "GCHead",
    "acm_modules": "APCHead",
    "dcm_modules": "DMHead",
    "context": "ANNHead",
    "ema_mid_conv": "EMAHead",
    "reduce_p": "PSAHead",
    "linear_fuse": "SegformerHead",
    "convs": "FCNHead",
    "conv_seg": "FCNHead",
}


@dataclass(frozen=True)
class Theirs:
    """A head's tensors below `prefix`, its configuration, and what is known of the model."""

    prefix: str
    tensors: Mapping[str, Tensor]
    config: Part
    facts: Facts

    def rows(self, name: str) -> int:
        """Output channels of a weight. Raises `ImportedError` where the file lacks it."""
        if name not in self.tensors:
            raise ImportedError(f"import: the file has no tensor {self.prefix}.{name}")
        return len(self.tensors[name])

    def product(self, weight: str, vector: str) -> Tensor:
        """Of a 1x1 convolution's weight and a vector. Raises `ImportedError` as `rows` does."""
        self.rows(weight)
        return self.tensors[weight].float().flatten(1) @ self.tensors[vector].float()

    def count(self, module: str) -> int:
        """How many numbered parts a module has."""
        below = [name.split(".") for name in self.tensors if name.startswith(f"{module}.")]
        return len({parts[1] for parts in below if len(parts) > 1})

    def has(self, module: str) -> bool:
        return any(f"{name}.".startswith(f"{module}.") for name in self.tensors)

    def layer(self, ours: str, theirs: str) -> dict[str, str]:
        return convolved(ours, f"{self.prefix}.{theirs}")


@dataclass(frozen=True)
class HeadFound:
    """A head here: options, names (ours, theirs), tensors that change."""

    head: str
    options: Mapping[str, Any]
    names: Mapping[str, str]
    changed: Mapping[str, Change] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)  # theirs, that are in what `changed` makes


def recognise(file: CheckpointFile, facts: Facts) -> Recognised:
    """Raises `ImportedError` for what no model here is, `ConfigError` for facts that lack."""
    if not file.below("decode_head."):
        raise ImportedError(
            f"import: {file.path} has no decode_head, which every model of mmsegmentation has: is "
            "it of another code base?"
        )
    config = file.config or {}
    model = Part("model", config.get("model"))
    model.need("type", ("EncoderDecoder", "CascadeEncoderDecoder"), "EncoderDecoder")
    flipped = _inputs(model, config, facts)
    backbone, names = _backbone(file, model.part("backbone"), facts)
    first = "backbone.conv1.weight" if backbone.stem == "basic" else "backbone.conv1.0.weight"
    cascade = bool(file.below("decode_head.0."))
    found = _cascade(file, model, facts) if cascade else _single(file, model, facts)
    auxiliary, dropped, notes = _auxiliary(file, model, cascade)
    model.refuse_rest(
        ("type", "pretrained", "train_cfg", "test_cfg", "init_cfg", "num_stages",
         "data_preprocessor"),
    )  # fmt: skip
    facts.check()
    last = "decode_head.1" if cascade else "decode_head"
    return Recognised(
        model=f"{found.head} of mmsegmentation",
        backbone=backbone,
        head=found.head,
        options={**found.options, **auxiliary.options},
        num_classes=len(file.tensors[f"{last}.conv_seg.weight"]),
        names={
            **names,
            **found.names,
            **auxiliary.names,
            "head.classifier.1": f"{last}.conv_seg",
        },
        changed={**found.changed, **({first: _reversed_inputs} if flipped else {})},
        dropped=[*dropped, *found.folded],
        untrained=() if auxiliary.names or cascade else ("head.auxiliary",),
        notes=notes,
    )


# --- the whole model


def _inputs(model: Part, config: Mapping[str, Any], facts: Facts) -> bool:
    """Whether the network takes BGR. Raises `ImportedError` for another normalisation."""
    given = model.take("data_preprocessor", config.get("data_preprocessor"))
    if not isinstance(given, Mapping):
        given = config.get("img_norm_cfg")
    order: Any = UNREADABLE
    if isinstance(given, Mapping):
        part = Part("data_preprocessor", given)
        rgb = part.take("bgr_to_rgb", part.take("to_rgb", False))
        mean, std = part.take("mean"), part.take("std")
        order = "rgb" if rgb else "bgr"
        if rgb is not UNREADABLE and UNREADABLE not in (mean, std):
            _check_statistics(mean, std, order)
    return bool(facts.of("inputs", order, "rgb") == "bgr")


def _check_statistics(mean: Any, std: Any, order: str) -> None:
    wanted = {"mean": MEAN, "std": STD}
    for name, given in (("mean", mean), ("std", std)):
        ours = [255 * each for each in wanted[name]]
        ours = ours if order == "rgb" else ours[::-1]
        numbers = given if isinstance(given, tuple) else ()
        close = [abs(a - b) < 1e-3 for a, b in zip(numbers, ours, strict=False)]
        if len(numbers) != 3 or not all(close):
            raise ImportedError(
                f"import: data_preprocessor.{name} is {given} ({order}): models here take images "
                f"with ImageNet's, {tuple(round(each, 3) for each in ours)}"
            )


def _reversed_inputs(weight: Tensor) -> Tensor:
    return weight.flip(1)


def _backbone(
    file: CheckpointFile, config: Part, facts: Facts
) -> tuple[BackboneConfig, dict[str, str]]:
    tensors, source = file.below("backbone."), f"the backbone of {file.path}"
    deep = "stem.0.weight" in tensors
    kind = config.take("type", "ResNet")
    if kind is not UNREADABLE and kind not in ("ResNet", "ResNetV1c"):
        raise ImportedError(
            f"import: backbone {kind}: ResNet and ResNetV1c are known, which share their blocks "
            "with the backbones here"
        )
    name = resnet_name(tensors, source)
    convolutions = [tensors.get(f"{each}.weight") for each in THEIR_STEM[::2]]
    stem = stem_name(convolutions if deep else [tensors.get("conv1.weight")], source)
    _check_blocks(config)
    stride, multi_grid = _dilation(config, facts, source)
    dilated = stride < 32
    basic: Literal["both", "first"] = (
        "first" if dilated and "layer1.0.conv3.weight" not in tensors else "both"
    )
    pairs = zip(STEM, THEIR_STEM, strict=True) if deep else ()
    names = {"backbone": "backbone", **{f"backbone.{a}": f"backbone.{b}" for a, b in pairs}}
    built = BackboneConfig(
        name=name,
        stem=stem,
        output_stride=stride,
        multi_grid=multi_grid,
        basic_dilation=basic,
    )
    return built, names


def _check_blocks(config: Part) -> None:
    config.need("style", ("pytorch",), "pytorch")
    config.need("num_stages", (4,), 4)
    config.need("out_indices", ((0, 1, 2, 3),), (0, 1, 2, 3))
    for key in ("avg_down", "dcn", "plugins", "conv_cfg"):
        config.need(key, (None, False), None)
    config.need("base_channels", (64,), 64)
    _check_norm(config)


def _check_norm(config: Part) -> None:
    norm = Part(f"{config.where}.norm_cfg", config.take("norm_cfg"))
    norm.need("type", ("BN", "SyncBN", "BN2d"), "BN")
    norm.need("eps", (1e-5,), 1e-5)
    norm.refuse_rest(("requires_grad", "momentum"))


def _dilation(config: Part, facts: Facts, source: str) -> tuple[int, tuple[int, int, int]]:
    """Output stride and multi-grid."""
    strides = config.take("strides", (1, 2, 2, 2))
    dilations = config.take("dilations", (1, 1, 1, 1))
    known: Any = UNREADABLE
    if UNREADABLE not in (strides, dilations):
        known = output_stride(strides, dilations, source)
    stride = facts.of("output_stride", known, 8)
    if stride not in (8, 16, 32):
        raise ImportedError(f"import: output_stride {stride}: 8, 16 and 32 are known")
    rates = strides_and_rates(stride)[1]
    if rates[-1] > 1:
        config.need("contract_dilation", (True,), False)
    else:
        config.take("contract_dilation")
    grid = config.take("multi_grid", None)
    for key in ("deep_stem", "stem_channels", "stage_with_dcn"):
        config.take(key)
    config.refuse_rest(HARMLESS)
    if grid in (None, UNREADABLE):
        return stride, (1, 1, 1)
    factors = tuple(each / rates[-1] for each in grid)
    whole = tuple(int(each) for each in factors)
    if whole != factors or len(whole) != 3 or whole == (1, 1, 1):
        raise ImportedError(
            f"import: {source} has multi_grid {grid}: factors of the dilation {rates[-1]} of its "
            "last stage can be taken over"
        )
    return stride, (whole[0], whole[1], whole[2])


# --- heads


def _single(file: CheckpointFile, model: Part, facts: Facts) -> HeadFound:
    theirs = Theirs("decode_head", file.below("decode_head."), model.part("decode_head"), facts)
    kind = _kind(theirs)
    if kind not in HEADS:
        raise ImportedError(
            f"import: decode_head {kind} has no counterpart here; known: {', '.join(HEADS)} and "
            "OCRHead behind an FCNHead"
        )
    encoding = kind == "EncHead"
    theirs.config.need("input_transform", (None, "multiple_select" if encoding else None), None)
    if encoding:
        theirs.config.need("in_index", ((1, 2, 3), (3,), 3, -1), (1, 2, 3))
    else:
        theirs.config.need("in_index", (3, -1), -1)
    return _checked(theirs, HEADS[kind])


def _checked(theirs: Theirs, find: Callable[[Theirs], HeadFound]) -> HeadFound:
    _check_decoder(theirs)
    found = find(theirs)
    theirs.config.refuse_rest(HARMLESS)
    return found


def _kind(theirs: Theirs) -> str:
    """The class of a head: as configured, else by the tensors."""
    modules = {name.partition(".")[0] for name in theirs.tensors}
    seen = next((kind for mark, kind in MARKS.items() if mark in modules), "of an unknown kind")
    stated = theirs.config.take("type", UNREADABLE)
    if stated is UNREADABLE:
        return seen
    if stated in HEADS and seen != stated:
        raise ImportedError(
            f"import: the configuration has a {stated}, but the tensors below {theirs.prefix} are "
            f"those of a head {seen}"
        )
    return str(stated)


def _check_decoder(theirs: Theirs) -> None:
    """What every head of mmsegmentation may have and no head here has."""
    config, rows = theirs.config, theirs.rows("conv_seg.weight")
    if theirs.facts.of("align_corners", config.take("align_corners", False), False):
        raise ImportedError(
            "import: align_corners is true: models here resize without aligned corners, and the "
            "logits would be others"
        )
    classes = config.take("num_classes", rows)
    if classes not in (UNREADABLE, rows):
        raise ImportedError(
            f"import: {theirs.prefix} has {rows} outputs for {classes} classes: only one for each "
            "class can be taken over"
        )
    config.need("conv_cfg", (None,), None)
    _check_norm(config)


def _activation(theirs: Theirs, allowed: tuple[str, ...] = (RELU,)) -> str:
    """That behind every batch norm of the head. Raises `ImportedError` for others."""
    given = theirs.config.take("act_cfg", {"type": "ReLU"})
    stated: Any = UNREADABLE
    if isinstance(given, Mapping):
        part = Part(f"{theirs.prefix}.act_cfg", given)
        kind = part.take("type", "ReLU")
        part.need("inplace", (True, False), True)
        if kind == "LeakyReLU":
            part.need("negative_slope", (0.01,), 0.01)
        part.refuse_rest(())
        stated = {"ReLU": RELU, "LeakyReLU": LEAKY}.get(kind, kind)
    activation = str(theirs.facts.of("activation", stated, RELU))
    if activation not in allowed:
        raise ImportedError(
            f"import: {theirs.prefix} has the activation {activation}; with this head "
            f"{' or '.join(allowed)} can be taken over"
        )
    return activation


def _convolutions(theirs: Theirs) -> dict[str, Any]:
    """Options of an FCN. Their dilation and kernel are 1 and 3 in every published one."""
    config = theirs.config
    config.need("kernel_size", (3,), 3)
    config.need("dilation", (1,), 1)
    config.take("num_convs")
    config.take("concat_input")
    convolutions = theirs.count("convs")
    if not convolutions:
        raise ImportedError(f"import: {theirs.prefix} classifies without any convolution before it")
    return {"convolutions": convolutions, "concat_input": theirs.has("conv_cat")}


def _fcn(theirs: Theirs) -> HeadFound:
    options = _convolutions(theirs)
    _activation(theirs)
    inner = "head.context.convolutions" if options["concat_input"] else "head.context"
    names: dict[str, str] = {}
    for index in range(options["convolutions"]):
        names |= theirs.layer(f"{inner}.{index}", f"convs.{index}")
    names |= theirs.layer("head.context.fuse.fuse", "conv_cat")
    width = theirs.rows("convs.0.conv.weight")
    return HeadFound("fcn", {"width": width, **options}, names)


def _ppm(theirs: Theirs) -> HeadFound:
    _activation(theirs)
    bins = theirs.config.fact(theirs.facts, "bins", "pool_scales", (1, 2, 3, 6), (1, 2, 3, 6))
    names = theirs.layer("head.context.fuse", "bottleneck")
    for index in range(len(bins)):
        names |= theirs.layer(f"head.context.branches.{index}.transform", f"psp_modules.{index}.1")
    options = {
        "bins": list(bins),
        "width": theirs.rows("bottleneck.conv.weight"),
        "pool_width": theirs.rows("psp_modules.0.1.conv.weight"),
    }
    return HeadFound("ppm", options, names)


def _aspp(theirs: Theirs) -> HeadFound:
    _activation(theirs)
    usual = (1, 12, 24, 36)
    dilations = theirs.config.fact(theirs.facts, "dilations", "dilations", (1, 6, 12, 18), usual)
    if dilations[0] != 1 or 1 in dilations[1:]:
        raise ImportedError(
            f"import: ASPPHead has dilations {dilations}: 1 in front of larger ones can be taken "
            "over"
        )
    width = theirs.rows("bottleneck.conv.weight")
    names = {
        **theirs.layer("head.context.pixel", "aspp_modules.0"),
        **theirs.layer("head.context.image.transform", "image_pool.1"),
        **theirs.layer("head.context.fuse", "bottleneck"),
    }
    for index in range(len(dilations) - 1):
        names |= theirs.layer(f"head.context.atrous.{index}", f"aspp_modules.{index + 1}")
    options = {"dilations": list(dilations[1:]), "width": width, "fuse_kernel": 3}

    def image_last(weight: Tensor) -> Tensor:
        return weight.roll(-width, dims=1)

    return HeadFound("aspp", options, names, {"head.context.fuse.0.weight": image_last})


def _encnet(theirs: Theirs) -> HeadFound:
    """In the authors' form; the scale is stored with a minus."""
    _activation(theirs)
    lateral = theirs.has("lateral_convs")
    for key in ("num_codes", "use_se_loss", "add_lateral"):
        theirs.config.take(key)
    encoder, se_loss = "head.context.encoder", theirs.has("se_layer")
    names = {
        **theirs.layer(f"{encoder}.before", "enc_module.encoding_project"),
        f"{encoder}.encoding": f"{theirs.prefix}.enc_module.encoding.0",
        f"{encoder}.norm.0": f"{theirs.prefix}.enc_module.encoding.1.bn"
        if theirs.has("enc_module.encoding.1.bn")
        else f"{theirs.prefix}.enc_module.encoding.1",
        "head.context.gate": f"{theirs.prefix}.enc_module.fc.0",
        "head.presence": f"{theirs.prefix}.se_layer",
    }
    if lateral:
        names |= theirs.layer(f"{encoder}.reduce.deepest", "bottleneck")
        names |= theirs.layer(f"{encoder}.reduce.fuse", "fusion")
        for index in range(2):
            names |= theirs.layer(f"{encoder}.reduce.laterals.{index}", f"lateral_convs.{index}")
    else:
        names |= theirs.layer(f"{encoder}.reduce", "bottleneck")
    options = {
        "width": theirs.rows("bottleneck.conv.weight"),
        "codewords": theirs.rows("enc_module.encoding.0.codewords"),
        "release": "authors",
        "se_loss": se_loss,
        "lateral": lateral,
    }
    return HeadFound("encnet", options, names, {f"{encoder}.encoding.scale": torch.neg})


def _danet(theirs: Theirs) -> HeadFound:
    _activation(theirs)
    theirs.config.take("pam_channels")
    names: dict[str, str] = {}
    for branch, other in (("position", "pam"), ("channel", "cam")):
        ours = f"head.context.branches.{branch}"
        names |= theirs.layer(f"{ours}.reduce", f"{other}_in_conv")
        names |= theirs.layer(f"{ours}.refine", f"{other}_out_conv")
        names[f"{ours}.attention.gate"] = f"{theirs.prefix}.{other}.gamma.scale"
        names[f"head.branch_classifiers.{branch}.1"] = f"{theirs.prefix}.{other}_conv_seg"
    for part in ("query", "key", "value"):
        ours = f"head.context.branches.position.attention.{part}"
        names[ours] = f"{theirs.prefix}.pam.{part}_project"
    options = {
        "width": theirs.rows("pam_in_conv.conv.weight"),
        "key_channels": theirs.rows("pam.query_project.weight"),
    }
    return HeadFound("danet", options, names)


def _ccnet(theirs: Theirs) -> HeadFound:
    if _convolutions(theirs) != {"convolutions": 2, "concat_input": True}:
        raise ImportedError("import: CCHead without concat_input has no counterpart here")
    leaky = _activation(theirs, (RELU, LEAKY)) == LEAKY
    recurrence = theirs.config.fact(theirs.facts, "recurrence", "recurrence", 2, 2)
    names = {
        **theirs.layer("head.context.reduce", "convs.0"),
        **theirs.layer("head.context.refine", "convs.1"),
        **theirs.layer("head.context.fuse.fuse", "conv_cat"),
        "head.context.attention.gate": f"{theirs.prefix}.cca.gamma.scale",
    }
    for part in ("query", "key", "value"):
        names[f"head.context.attention.{part}"] = f"{theirs.prefix}.cca.{part}_conv"
    options = {
        "width": theirs.rows("convs.0.conv.weight"),
        "key_channels": theirs.rows("cca.query_conv.weight"),
        "recurrence": recurrence,
        "release": "authors" if leaky else "paper",
    }
    return HeadFound("ccnet", options, names)


def _isa(theirs: Theirs) -> HeadFound:
    """Their values have a bias b, ours none. Weights sum to 1, so that what is gathered has b more,
    and U b before the batch norm behind U: its mean is as much less here.
    """
    _activation(theirs)
    theirs.config.take("isa_channels")
    factors = theirs.config.fact(theirs.facts, "down_factor", "down_factor", (8, 8), (8, 8))
    if len(set(factors)) != 1:
        raise ImportedError(f"import: ISAHead has down_factor {factors}: equal ones are known")
    names = {
        **theirs.layer("head.context.reduce", "in_conv"),
        **theirs.layer("head.context.fuse.fuse", "out_conv"),
    }
    changed: dict[str, Change] = {}
    folded = []
    for mine, other in (("far", "global"), ("near", "local")):
        ours, relation = f"head.context.attention.{mine}", f"{other}_relation"
        for part in ("query", "key"):
            for index in range(2):
                layers = theirs.layer(
                    f"{ours}.{part}.{index}", f"{relation}.{part}_project.{index}"
                )
                names |= layers
        names[f"{ours}.value"] = f"{theirs.prefix}.{relation}.value_project"
        names |= theirs.layer(f"{ours}.output", f"{relation}.output_project")
        bias = f"{relation}.value_project.bias"
        if bias in theirs.tensors:
            folded.append(f"{theirs.prefix}.{bias}")
            shift = theirs.product(f"{relation}.output_project.conv.weight", bias)
            changed[f"{ours}.output.1.running_mean"] = partial(torch.sub, other=shift)
    options = {
        "width": theirs.rows("in_conv.conv.weight"),
        "key_channels": theirs.rows("global_relation.query_project.0.conv.weight"),
        "down_factor": factors[0],
    }
    return HeadFound("isa", options, names, changed, folded)


HEADS: dict[str, Callable[[Theirs], HeadFound]] = {
    "FCNHead": _fcn,
    "PSPHead": _ppm,
    "ASPPHead": _aspp,
    "EncHead": _encnet,
    "DAHead": _danet,
    "CCHead": _ccnet,
    "ISAHead": _isa,
}


# --- OCR, a cascade of two heads


def _cascade(file: CheckpointFile, model: Part, facts: Facts) -> HeadFound:
    configs = model.take("decode_head", UNREADABLE)
    parts = configs if isinstance(configs, tuple) else (UNREADABLE, UNREADABLE)
    stages = {name.split(".")[0] for name in file.below("decode_head.")}
    if len(parts) != 2 or stages != {"0", "1"} or not file.below("decode_head.1.object_context"):
        raise ImportedError("import: of cascades only OCRHead behind an FCNHead is known")
    coarse, ocr = (
        Theirs(f"decode_head.{n}", file.below(f"decode_head.{n}."), Part(f"decode_head.{n}", part),
               facts)
        for n, part in enumerate(parts)
    )  # fmt: skip
    coarse.config.need("type", ("FCNHead",), "FCNHead")
    ocr.config.need("type", ("OCRHead",), "OCRHead")
    coarse.config.need("in_index", (2,), -1)
    ocr.config.need("in_index", (3, -1), -1)
    for theirs in (coarse, ocr):
        theirs.config.need("input_transform", (None,), None)
    first = _checked(coarse, _fcn)
    if first.options["convolutions"] != 1 or first.options["concat_input"]:
        raise ImportedError(
            "import: the coarse FCNHead of an OCRHead has one convolution here, without its input "
            "beside it"
        )
    found = _checked(ocr, _ocr)
    return HeadFound(
        "ocr",
        {**found.options, "aux_width": first.options["width"]},
        {
            **found.names,
            **coarse.layer("head.coarse.0", "convs.0"),
            "head.coarse.1.1": "decode_head.0.conv_seg",
        },
    )


def _ocr(theirs: Theirs) -> HeadFound:
    _activation(theirs)
    theirs.config.take("ocr_channels")
    theirs.config.need("scale", (1,), 1)
    block = "object_context_block"
    names = {
        **theirs.layer("head.context.reduce", "bottleneck"),
        **theirs.layer("head.context.fuse.fuse", f"{block}.bottleneck"),
        **theirs.layer("head.context.regions.delta", f"{block}.value_project"),
        **theirs.layer("head.context.regions.rho", f"{block}.out_project"),
    }
    for mine, other in (("phi", "query"), ("psi", "key")):
        for index in range(2):
            ours = f"head.context.regions.relation.{mine}.{index}"
            names |= theirs.layer(ours, f"{block}.{other}_project.{index}")
    options = {
        "width": theirs.rows("bottleneck.conv.weight"),
        "key_channels": theirs.rows(f"{block}.value_project.conv.weight"),
        "transforms": 2,
    }
    return HeadFound("ocr", options, names)


# --- auxiliary heads


def _auxiliary(
    file: CheckpointFile, model: Part, cascade: bool
) -> tuple[HeadFound, list[str], list[str]]:
    """The branch on layer3, what is dropped, and sentences on that."""
    configs = model.take("auxiliary_head", None)
    tensors = file.below("auxiliary_head.")
    none = HeadFound("", {}, {})
    if not tensors:
        return none, [], [] if cascade else [UNTRAINED]
    several = all(name.partition(".")[0].isdigit() for name in tensors)
    numbers = sorted({name.partition(".")[0] for name in tensors}) if several else [""]
    parts = configs if isinstance(configs, tuple) else (configs,)
    chosen, dropped = none, []
    for index, number in enumerate(numbers):
        prefix = f"auxiliary_head.{number}".rstrip(".")
        theirs = Theirs(
            prefix,
            file.below(f"{prefix}."),
            Part(prefix, parts[index] if index < len(parts) else UNREADABLE),
            Facts(),
        )
        fits = not cascade and not chosen.names and _is_ours(theirs, file)
        if fits:
            chosen = HeadFound(
                "",
                {"aux_width": theirs.rows("convs.0.conv.weight")},
                {
                    **theirs.layer("head.auxiliary.branch.0", "convs.0"),
                    "head.auxiliary.branch.1.1": f"{prefix}.conv_seg",
                },
            )
        else:
            dropped.append(prefix)
    notes = [
        f"{prefix}: an auxiliary head that the head here does not have, dropped; no prediction "
        "needs it"
        for prefix in dropped
    ]
    return chosen, dropped, notes if chosen.names or cascade else [*notes, UNTRAINED]


UNTRAINED = "The branch on layer3, which no prediction needs, is not trained"


def _is_ours(theirs: Theirs, file: CheckpointFile) -> bool:
    """Whether it is one 3x3 convolution of layer3 and a classifier, for all classes."""
    modules = {name.partition(".")[0] for name in theirs.tensors}
    weight = theirs.tensors.get("convs.0.conv.weight")
    layer3 = file.tensors.get("backbone.layer4.0.conv1.weight")
    last = file.tensors.get("decode_head.conv_seg.weight")
    own = theirs.tensors.get("conv_seg.weight")
    if modules != {"convs", "conv_seg"} or theirs.count("convs") != 1 or weight is None:
        return False
    if layer3 is None or weight.shape[1] != layer3.shape[1] or weight.shape[2:] != (3, 3):
        return False
    return own is not None and last is not None and len(own) == len(last)
