"""Checkpoints of mmsegmentation, 0.x and 1.x: dilated ResNets with heads that exist here.

What no tensor shows is read from the configuration in the file (`meta.cfg`), where there is one.
Blocks of another layout are refused: no model here computes that.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from contextbench.config.protocols import BackboneConfig, InputsConfig
from contextbench.interop import mmsegmentation_blocks, mmsegmentation_heads
from contextbench.interop.configurations import Part
from contextbench.interop.facts import Facts
from contextbench.interop.files import CheckpointFile, ImportedError
from contextbench.interop.hrnet import hrnet_name, is_hrnet
from contextbench.interop.inference import inference_of
from contextbench.interop.inputs import inputs_of
from contextbench.interop.layouts import UNTRAINED
from contextbench.interop.literals import UNREADABLE
from contextbench.interop.mmsegmentation_heads import HeadFound, Theirs, fcn
from contextbench.interop.mmsegmentation_heads import ocr as ocr_head
from contextbench.interop.residual import output_stride, resnet_name, stem_name
from contextbench.interop.structure import Recognised
from contextbench.models.backbone import DEEP_STEM_NAMES, EntryDilation, strides_and_rates
from contextbench.models.hrnet import STRIDE as HRNET_STRIDE

# What trains, starts or regularises a model, and changes nothing of the trained one's function.
HARMLESS = (
    "type", "init_cfg", "pretrained", "norm_cfg", "norm_eval", "with_cp", "frozen_stages",
    "zero_init_residual", "depth", "in_channels", "channels", "num_classes", "out_channels",
    "dropout_ratio", "loss_decode", "loss_se_decode", "ignore_index", "sampler", "threshold",
)  # fmt: skip
HEADS = {**mmsegmentation_heads.HEADS, **mmsegmentation_blocks.HEADS}
# Of heads that see several stages: which these may be, the usual ones first.
SEVERAL_STAGES: Mapping[str, tuple[Any, ...]] = {
    "EncHead": ((1, 2, 3), (3,), 3, -1),
    "UPerHead": ((0, 1, 2, 3),),
}
STEM = DEEP_STEM_NAMES["names of PyTorch-Encoding (conv1.0)"]  # ours
THEIR_STEM = DEEP_STEM_NAMES["names of mmsegmentation (stem)"]

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
    "nl_block": "NLHead",
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
    inputs = _inputs(model, config, facts)
    backbone, names = _backbone(file, model.part("backbone"), facts)
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
        backbone=backbone.model_copy(update={"inputs": inputs}),
        head=found.head,
        options={**found.options, **auxiliary.options},
        num_classes=len(file.tensors[f"{last}.conv_seg.weight"]),
        names={
            **names,
            **found.names,
            **auxiliary.names,
            "head.classifier.1": f"{last}.conv_seg",
        },
        changed=found.changed,
        dropped=[*dropped, *found.folded],
        untrained=() if auxiliary.names or cascade else ("head.auxiliary",),
        notes=notes,
        align_corners=_aligned(facts, backbone),
        inference=inference_of(config),
    )


# --- the whole model


def _aligned(facts: Facts, backbone: BackboneConfig) -> bool:
    """Raises `ImportedError` for a HRNet in front of an aligned head, whose branches never are."""
    aligned = bool({**facts.assumed, **facts.stated}["align_corners"])
    if aligned and backbone.scaled_exchange:
        raise ImportedError(
            "import: align_corners is true, and HRNet of mmsegmentation resizes its branches "
            "without: one for all can be taken over"
        )
    return aligned


def _inputs(model: Part, config: Mapping[str, Any], facts: Facts) -> InputsConfig | None:
    """What images it takes. Raises `ImportedError` for what is no order of three colours."""
    given = model.take("data_preprocessor", config.get("data_preprocessor"))
    if not isinstance(given, Mapping):
        given = config.get("img_norm_cfg")
    if not isinstance(given, Mapping):
        return inputs_of(facts)
    part = Part("data_preprocessor", given)
    rgb = part.take("bgr_to_rgb", part.take("to_rgb", False))
    order = rgb if rgb is UNREADABLE else "rgb" if rgb else "bgr"
    return inputs_of(facts, order=order, mean=part.take("mean"), std=part.take("std"))


def _backbone(
    file: CheckpointFile, config: Part, facts: Facts
) -> tuple[BackboneConfig, dict[str, str]]:
    tensors, source = file.below("backbone."), f"the backbone of {file.path}"
    deep = "stem.0.weight" in tensors
    kind = config.take("type", "HRNet" if is_hrnet(tensors) else "ResNet")
    if kind is not UNREADABLE and kind not in ("ResNet", "ResNetV1c", "HRNet"):
        raise ImportedError(
            f"import: backbone {kind}: ResNet, ResNetV1c and HRNet are known, which share their "
            "blocks with the backbones here"
        )
    if is_hrnet(tensors):
        return _hrnet(config, hrnet_name(tensors, source)), {"backbone": "backbone"}
    name = resnet_name(tensors, source)
    convolutions = [tensors.get(f"{each}.weight") for each in THEIR_STEM[::2]]
    stem = stem_name(convolutions if deep else [tensors.get("conv1.weight")], source)
    _check_blocks(config)
    stride, multi_grid, entry = _dilation(config, facts, source)
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
        entry_dilation=entry,
    )
    return built, names


def _hrnet(config: Part, name: str) -> BackboneConfig:
    """Its shape is that of the tensors, whatever `extra` says."""
    config.take("extra")
    config.need("multiscale_output", (True,), True)
    config.need("conv_cfg", (None,), None)
    _check_norm(config)
    config.refuse_rest(HARMLESS)
    return BackboneConfig(name=name, output_stride=HRNET_STRIDE, scaled_exchange=True)


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


def _dilation(
    config: Part, facts: Facts, source: str
) -> tuple[int, tuple[int, int, int], EntryDilation]:
    """Output stride, multi-grid, and the dilation where a stride was."""
    strides = config.take("strides", (1, 2, 2, 2))
    dilations = config.take("dilations", (1, 1, 1, 1))
    known: Any = UNREADABLE
    if UNREADABLE not in (strides, dilations):
        known = output_stride(strides, dilations, source)
    stride = facts.of("output_stride", known, 8)
    if stride not in (8, 16, 32):
        raise ImportedError(f"import: output_stride {stride}: 8, 16 and 32 are known")
    rates = strides_and_rates(stride)[1]
    contracted = config.take("contract_dilation", False)
    if rates[-1] > 1:
        contracted = facts.of("contract_dilation", contracted, True)
    entry: EntryDilation = "previous" if contracted or rates[-1] == 1 else "own"
    grid = config.take("multi_grid", None)
    for key in ("deep_stem", "stem_channels", "stage_with_dcn"):
        config.take(key)
    config.refuse_rest(HARMLESS)
    if grid in (None, UNREADABLE):
        return stride, (1, 1, 1), entry
    factors = tuple(each / rates[-1] for each in grid)
    whole = tuple(int(each) for each in factors)
    if whole != factors or len(whole) != 3 or whole == (1, 1, 1):
        raise ImportedError(
            f"import: {source} has multi_grid {grid}: factors of the dilation {rates[-1]} of its "
            "last stage can be taken over"
        )
    return stride, (whole[0], whole[1], whole[2]), entry


# --- heads


def _single(file: CheckpointFile, model: Part, facts: Facts) -> HeadFound:
    theirs = Theirs("decode_head", file.below("decode_head."), model.part("decode_head"), facts)
    kind = _kind(theirs)
    if kind not in HEADS:
        raise ImportedError(
            f"import: decode_head {kind} has no counterpart here; known: {', '.join(HEADS)} and "
            "OCRHead behind an FCNHead"
        )
    several = SEVERAL_STAGES.get(kind)
    if several and not is_hrnet(file.below("backbone.")):
        theirs.config.need("input_transform", (None, "multiple_select"), None)
        theirs.config.need("in_index", several, several[0])
    else:
        _check_stages(theirs, file, (3, -1))
    return _checked(theirs, HEADS[kind])


def _check_stages(theirs: Theirs, file: CheckpointFile, stages: tuple[int, ...]) -> None:
    """What of the backbone the head sees: of HRNet all branches, side by side."""
    if is_hrnet(file.below("backbone.")):
        theirs.config.need("input_transform", ("resize_concat",), "resize_concat")
        theirs.config.need("in_index", ((0, 1, 2, 3),), (0, 1, 2, 3))
        return
    theirs.config.need("input_transform", (None,), None)
    theirs.config.need("in_index", stages, -1)


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
    theirs.facts.of("align_corners", config.take("align_corners", False), False)
    classes = config.take("num_classes", rows)
    if classes not in (UNREADABLE, rows):
        raise ImportedError(
            f"import: {theirs.prefix} has {rows} outputs for {classes} classes: only one for each "
            "class can be taken over"
        )
    config.need("conv_cfg", (None,), None)
    _check_norm(config)


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
    _check_stages(coarse, file, (2,))
    _check_stages(ocr, file, (3, -1))
    first = _checked(coarse, fcn)
    if first.options["convolutions"] != 1 or first.options["concat_input"]:
        raise ImportedError(
            "import: the coarse FCNHead of an OCRHead has one convolution here, without its input "
            "beside it"
        )
    found = _checked(ocr, ocr_head)
    kernel = {"aux_kernel": first.options["kernel"]} if "kernel" in first.options else {}
    return HeadFound(
        "ocr",
        {**found.options, "aux_width": first.options["width"], **kernel},
        {
            **found.names,
            **coarse.layer("head.coarse.0", "convs.0"),
            "head.coarse.1.1": "decode_head.0.conv_seg",
        },
    )


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
