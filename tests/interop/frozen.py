"""Names and shapes of mmsegmentation 1.4's tensors, written out, and texts of its configurations.

`test_peers` compares them with the package itself, where it is installed.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
CLASSES = (
    "background", "local brick", "local moss", "local striped", "local checked",
    "local marker white", "local marker black", "scene a", "scene b", "size small", "size large",
    "recall striped", "recall checked",
)  # fmt: skip
K = len(CLASSES)
WIDTH = 8
LAYER1, LAYER2, LAYER3, LAYER4 = 64, 128, 256, 512  # channels of a ResNet-18

INPUTS = """\
data_preprocessor = dict(
    bgr_to_rgb=True,
    mean=[123.675, 116.28, 103.53],
    pad_val=0,
    std=[58.395, 57.12, 57.375],
    type='SegDataPreProcessor')
"""
BACKBONE = """dict(
        contract_dilation=True, depth=18, dilations=(1, 1, 2, 4), norm_cfg=norm_cfg,
        norm_eval=False, num_stages=4, out_indices=(0, 1, 2, 3), strides=(1, 2, 1, 1),
        style='pytorch', type='ResNetV1c')"""
COMMON = (
    f"align_corners=False, channels={WIDTH}, dropout_ratio=0.1, norm_cfg=norm_cfg, num_classes={K}"
)
AUXILIARY = f"""dict(
        align_corners=False, channels=4, concat_input=False, in_channels={LAYER3}, in_index=2,
        norm_cfg=norm_cfg, num_classes={K}, num_convs=1, type='FCNHead')"""


def config(decode_head: str, kind: str = "EncoderDecoder", auxiliary: str = AUXILIARY) -> str:
    """As mmengine prints one; `auxiliary` is empty where there is none."""
    stages = " num_stages=2," if kind == "CascadeEncoderDecoder" else ""
    more = f"\n    auxiliary_head={auxiliary}," if auxiliary else ""
    return (
        f"{INPUTS}norm_cfg = dict(requires_grad=True, type='SyncBN')\n"
        f"optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=0.01, type='SGD'))\n"
        f"model = dict({more}\n    backbone={BACKBONE},\n    data_preprocessor=data_preprocessor,"
        f"\n    decode_head={decode_head},\n    pretrained='open-mmlab://resnet18_v1c',"
        f"\n    test_cfg=dict(mode='whole'), train_cfg=dict(),{stages}\n    type='{kind}')\n"
    )


def norm(name: str, channels: int) -> Shapes:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (channels,) for part in parts}, f"{name}.num_batches_tracked": ()}


def conv(name: str, out: int, inner: int, kernel: int = 1, *, bias: bool = True) -> Shapes:
    weight = {f"{name}.weight": (out, inner, kernel, kernel)}
    return {**weight, f"{name}.bias": (out,)} if bias else weight


def module(name: str, out: int, inner: int, kernel: int = 1) -> Shapes:
    """mmcv's ConvModule with batch norm."""
    return {**conv(f"{name}.conv", out, inner, kernel, bias=False), **norm(f"{name}.bn", out)}


def resnet18(*, deep: bool = True) -> Shapes:
    shapes: Shapes = {}
    if deep:
        for i, (out, inner) in zip((0, 3, 6), ((32, 3), (32, 32), (64, 32)), strict=True):
            shapes |= conv(f"stem.{i}", out, inner, 3, bias=False) | norm(f"stem.{i + 1}", out)
    else:
        shapes |= conv("conv1", 64, 3, 7, bias=False) | norm("bn1", 64)
    for stage in (1, 2, 3, 4):
        planes, inner = 32 * 2**stage, 64 if stage == 1 else 16 * 2**stage
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            shapes |= conv(f"{at}.conv1", planes, planes if block else inner, 3, bias=False)
            shapes |= norm(f"{at}.bn1", planes) | norm(f"{at}.bn2", planes)
            shapes |= conv(f"{at}.conv2", planes, planes, 3, bias=False)
        if stage > 1:
            at = f"layer{stage}.0.downsample"
            shapes |= conv(f"{at}.0", planes, inner, bias=False) | norm(f"{at}.1", planes)
    return {f"backbone.{name}": shape for name, shape in shapes.items()}


def fcn() -> Shapes:
    return (
        module("convs.0", WIDTH, LAYER4, 3)
        | module("convs.1", WIDTH, WIDTH, 3)
        | module("conv_cat", WIDTH, LAYER4 + WIDTH, 3)
    )


def ppm() -> Shapes:
    shapes = module("bottleneck", WIDTH, LAYER4 + 4 * WIDTH, 3)
    for i in range(4):
        shapes |= module(f"psp_modules.{i}.1", WIDTH, LAYER4)
    return shapes


def aspp() -> Shapes:
    shapes = module("image_pool.1", WIDTH, LAYER4) | module("bottleneck", WIDTH, 5 * WIDTH, 3)
    for i, kernel in enumerate((1, 3, 3, 3)):
        shapes |= module(f"aspp_modules.{i}", WIDTH, LAYER4, kernel)
    return shapes


def encnet() -> Shapes:
    return {
        **module("bottleneck", WIDTH, LAYER4, 3),
        **module("enc_module.encoding_project", WIDTH, WIDTH),
        "enc_module.encoding.0.codewords": (6, WIDTH),
        "enc_module.encoding.0.scale": (6,),
        **norm("enc_module.encoding.1", 6),
        "enc_module.fc.0.weight": (WIDTH, WIDTH),
        "enc_module.fc.0.bias": (WIDTH,),
        "se_layer.weight": (K, WIDTH),
        "se_layer.bias": (K,),
    }


def danet() -> Shapes:
    shapes = conv("pam_conv_seg", K, WIDTH) | conv("cam_conv_seg", K, WIDTH)
    for name in ("pam", "cam"):
        shapes |= module(f"{name}_in_conv", WIDTH, LAYER4, 3) | {f"{name}.gamma.scale": ()}
        shapes |= module(f"{name}_out_conv", WIDTH, WIDTH, 3)
    for name, out in (("query", 3), ("key", 3), ("value", WIDTH)):
        shapes |= conv(f"pam.{name}_project", out, WIDTH)
    return shapes


def ccnet() -> Shapes:
    shapes = {**fcn(), "cca.gamma.scale": ()}
    for name, out in (("query", 1), ("key", 1), ("value", WIDTH)):
        shapes |= conv(f"cca.{name}_conv", out, WIDTH)
    return shapes


def isa() -> Shapes:
    shapes = module("in_conv", WIDTH, LAYER4, 3) | module("out_conv", WIDTH, 2 * WIDTH)
    for name in ("global", "local"):
        for part in ("query", "key"):
            for i, inner in enumerate((WIDTH, 4)):
                shapes |= module(f"{name}_relation.{part}_project.{i}", 4, inner)
        shapes |= conv(f"{name}_relation.value_project", WIDTH, WIDTH)
        shapes |= module(f"{name}_relation.output_project", WIDTH, WIDTH)
    return shapes


def ocr() -> Shapes:
    """Both heads of the cascade."""
    block = "1.object_context_block"
    shapes = (
        module("0.convs.0", 4, LAYER3, 3)
        | conv("0.conv_seg", K, 4)
        | module("1.bottleneck", WIDTH, LAYER4, 3)
        | conv("1.conv_seg", K, WIDTH)
        | module(f"{block}.value_project", 4, WIDTH)
        | module(f"{block}.out_project", WIDTH, 4)
        | module(f"{block}.bottleneck", WIDTH, 2 * WIDTH)
    )
    for part in ("query", "key"):
        for i, inner in enumerate((WIDTH, 4)):
            shapes |= module(f"{block}.{part}_project.{i}", 4, inner)
    return shapes


def pairs(block: str) -> Shapes:
    """A non-local block: theta, phi and g to half the width, and back."""
    shapes = fcn() | module(f"{block}.conv_out", WIDTH, WIDTH // 2)
    for name in ("theta", "phi", "g"):
        shapes |= conv(f"{block}.{name}.conv", WIDTH // 2, WIDTH)
    return shapes


def gcnet() -> Shapes:
    narrow = WIDTH // 4
    return {
        **fcn(),
        **conv("gc_block.conv_mask", 1, WIDTH),
        **conv("gc_block.channel_add_conv.0", narrow, WIDTH),
        "gc_block.channel_add_conv.1.weight": (narrow, 1, 1),
        "gc_block.channel_add_conv.1.bias": (narrow, 1, 1),
        **conv("gc_block.channel_add_conv.3", WIDTH, narrow),
    }


def emanet() -> Shapes:
    return {
        **module("ema_in_conv", 6, LAYER4, 3),
        **conv("ema_mid_conv.conv", 6, 6),
        "ema_module.bases": (1, 6, 5),
        **module("ema_out_conv", 6, 6),
        **module("bottleneck", WIDTH, 6, 3),
        **module("conv_cat", WIDTH, LAYER4 + WIDTH, 3),
    }


def separable(name: str, out: int, inner: int) -> Shapes:
    """A 3x3 convolution of each channel, and a 1x1 one."""
    each = module(f"{name}.depthwise_conv", inner, 1, 3)
    return each | module(f"{name}.pointwise_conv", out, inner)


def deeplabv3plus() -> Shapes:
    shapes = module("image_pool.1", WIDTH, LAYER4) | module("bottleneck", WIDTH, 5 * WIDTH, 3)
    shapes |= module("aspp_modules.0", WIDTH, LAYER4) | module("c1_bottleneck", 3, LAYER1)
    for i in (1, 2, 3):
        shapes |= separable(f"aspp_modules.{i}", WIDTH, LAYER4)
    shapes |= separable("sep_bottleneck.0", WIDTH, WIDTH + 3)
    return shapes | separable("sep_bottleneck.1", WIDTH, WIDTH)


def upernet() -> Shapes:
    shapes = ppm() | module("fpn_bottleneck", WIDTH, 4 * WIDTH, 3)
    for i, inner in enumerate((LAYER1, LAYER2, LAYER3)):
        shapes |= module(f"lateral_convs.{i}", WIDTH, inner)
        shapes |= module(f"fpn_convs.{i}", WIDTH, WIDTH, 3)
    return shapes


def head_text(kind: str, options: str, channels: object = LAYER4, index: object = 3) -> str:
    return f"dict({COMMON}, in_channels={channels}, in_index={index}, type='{kind}'{options})"


COARSE = AUXILIARY
OCR_TEXT = head_text("OCRHead", ", ocr_channels=4")
ENC_TEXT = head_text(
    "EncHead",
    ", add_lateral=False, num_codes=6, use_se_loss=True",
    [LAYER2, LAYER3, LAYER4],
    (1, 2, 3),
)
# name -> tensors of the decode head, the configuration's text
HEADS: dict[str, tuple[Shapes, str]] = {
    "fcn": (fcn(), config(head_text("FCNHead", ", concat_input=True, num_convs=2"))),
    "ppm": (ppm(), config(head_text("PSPHead", ", pool_scales=(1, 2, 3, 6)"))),
    "aspp": (aspp(), config(head_text("ASPPHead", ", dilations=(1, 12, 24, 36)"))),
    "encnet": (encnet(), config(ENC_TEXT)),
    "danet": (danet(), config(head_text("DAHead", ", pam_channels=3"))),
    "ccnet": (ccnet(), config(head_text("CCHead", ", recurrence=2"))),
    "isa": (isa(), config(head_text("ISAHead", ", down_factor=(8, 8), isa_channels=4"))),
    "non_local": (
        pairs("nl_block"),
        config(head_text("NLHead", ", mode='embedded_gaussian', reduction=2, use_scale=True")),
    ),
    "dnlnet": (
        pairs("dnl_block") | conv("dnl_block.conv_mask", 1, WIDTH),
        config(head_text("DNLHead", ", mode='embedded_gaussian', reduction=2, use_scale=True")),
    ),
    "gcnet": (
        gcnet(),
        config(
            head_text("GCHead", ", fusion_types=('channel_add', ), pooling_type='att', ratio=0.25")
        ),
    ),
    "emanet": (
        emanet(),
        config(
            head_text(
                "EMAHead",
                ", concat_input=True, ema_channels=6, momentum=0.1, num_bases=5, num_stages=3",
            )
        ),
    ),
    "deeplabv3plus": (
        deeplabv3plus(),
        config(
            head_text(
                "DepthwiseSeparableASPPHead",
                f", c1_channels=3, c1_in_channels={LAYER1}, dilations=(1, 12, 24, 36)",
            )
        ),
    ),
    "upernet": (
        upernet(),
        config(
            head_text(
                "UPerHead",
                ", pool_scales=(1, 2, 3, 6)",
                [LAYER1, LAYER2, LAYER3, LAYER4],
                [0, 1, 2, 3],
            )
        ),
    ),
    "ocr": (ocr(), config(f"[{COARSE}, {OCR_TEXT}]", "CascadeEncoderDecoder", "")),
}


def shapes_of(head: str, *, deep: bool = True) -> Shapes:
    """All tensors of a model, as its state dict lists them but for the order."""
    decode = dict(HEADS[head][0])
    auxiliary: Shapes = {}
    if head != "ocr":
        decode |= conv("conv_seg", K, WIDTH)
        auxiliary = module("convs.0", 4, LAYER3, 3) | conv("conv_seg", K, 4)
    return {
        **resnet18(deep=deep),
        **{f"decode_head.{name}": shape for name, shape in decode.items()},
        **{f"auxiliary_head.{name}": shape for name, shape in auxiliary.items()},
    }


def tensors_of(shapes: Shapes) -> dict[str, Tensor]:
    """Numbers of which no two tensors have the same; variances positive.

    Large tensors have one number throughout, which takes no space in a file.
    """
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
            continue
        if math.prod(shape) > 10_000:
            number = torch.randn((), generator=generator) / math.prod(shape[1:])
            state[name] = number.expand(shape)
            continue
        tensor = torch.randn(shape, generator=generator)
        state[name] = tensor.abs() + 0.5 if name.endswith("running_var") else tensor
    return state


def saved(path: Path, head: str = "ppm", *, deep: bool = True, **meta: Any) -> Path:
    """A file as mmengine's runner writes it, less what needs code to be read."""
    about = {"cfg": HEADS[head][1], "dataset_meta": {"classes": CLASSES}, "iter": 80000, **meta}
    state = tensors_of(shapes_of(head, deep=deep))
    torch.save({"meta": about, "state_dict": state}, path)
    return path
