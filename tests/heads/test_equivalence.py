"""Contexts against independent implementations: equal weights give equal outputs and gradients.

Torchvision is always there. The others are those of the extra `oracles`, which `make oracles` sets
up in an environment of its own: segmentation-models-pytorch, and mmsegmentation in its maintained
fork, whose packages are named onedl-*. Their tests have the marker `oracle`; where a package lacks,
they fail. A test uses the other package's classes and not its arithmetic rewritten; where these do
more or less than the method, the comment at the case says what is set aside.

Without an independent counterpart: pyramid_oc, asp_oc, asp_ocr and double_attention. Base-OC's
attention is compared with the block that other heads share there. In segmentation-models-pytorch
the grid of one cell has no batch norm, so its pyramid is compared without that grid.
"""

import importlib
import math
import sys
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead

from heads import ContextHead, build_head
from tests.heads.small import (
    CHANNELS,
    CLASSES,
    IMPLEMENTATIONS,
    WIDTH,
    randomize_norms,
    sharpen,
    small_features,
)

# Float64 tells that the functions are equal. In float32, batch norm of a training step, several in
# a row, enlarges differences in rounding: 1.2e-4 is the largest seen, of gradients up to 8.
TOLERANCES: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {},
    torch.float32: {"rtol": 1e-5, "atol": 5e-4},
}
LEAKY = {"type": "LeakyReLU", "negative_slope": 0.01}
LAYERS = {"norm_cfg": {"type": "BN"}, "act_cfg": {"type": "ReLU"}}  # of mmsegmentation's modules


class Called(nn.Module):
    """A module of another package, called with our inputs in the way that it expects."""

    def __init__(self, module: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module = module
        self.call = call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(self.module, *inputs)


@dataclass(frozen=True)
class Match:
    """One function twice. `parts`: names of our modules and parameters, and theirs.

    State is paired in the order of registration. `adapted`: their tensor made from ours, where
    both differ in more than the name.
    """

    ours: nn.Module
    theirs: nn.Module
    parts: Mapping[str, str]
    inputs: tuple[Tensor, ...]
    adapted: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)


def built(name: str, implementation: str, *, width: int = WIDTH, **options: Any) -> ContextHead:
    torch.manual_seed(0)
    head = build_head(
        name, CHANNELS, CLASSES, width=width, dropout=0, implementation=implementation, **options
    )
    randomize_norms(head)
    sharpen(head)
    return head


def layer4() -> Tensor:
    return small_features().layer4


def random_map(channels: int, size: Sequence[int] | None = None) -> Tensor:
    """Of the size of layer4 unless told."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, channels, *(size or layer4().shape[-2:]), generator=generator)


# --- torchvision


def torchvision_aspp(implementation: str) -> Match:
    dilations = (2, 12, 24)  # on 17 x 13 pixels: all taps matter, some, only the middle one
    theirs = ASPP(CHANNELS.layer4, dilations, out_channels=WIDTH)
    theirs.project[3].p = 0.0  # dropout, which we have in the classifier
    parts = {
        "pixel": "convs.0",
        **{f"atrous.{i}": f"convs.{i + 1}" for i in range(3)},
        "image": "convs.4",
        "fuse": "project",
    }
    ours = built("aspp", implementation, dilations=dilations).context
    return Match(ours, theirs, parts, (layer4(),))


def torchvision_fcn(implementation: str) -> Match:
    """Their width is a quarter of the input's; logits are compared."""
    head = built("fcn", implementation, width=CHANNELS.layer4 // 4)
    theirs = FCNHead(CHANNELS.layer4, CLASSES)
    theirs[3].p = 0.0  # dropout of values; ours drops channels
    parts = {"0.0.0": "0", "0.0.1": "1", "1": "4"}
    return Match(nn.Sequential(head.context, head.classifier), theirs, parts, (layer4(),))


# --- segmentation-models-pytorch


def smp_ppm(implementation: str) -> Match:
    """Their module resizes with aligned corners: that one choice is replaced by ours."""
    package = "segmentation_models_pytorch"
    decoder = importlib.import_module(f"{package}.decoders.pspnet.decoder")
    modules = importlib.import_module(f"{package}.base.modules")

    def resize(x: Tensor, *, align_corners: bool, **options: Any) -> Tensor:
        assert align_corners
        return F.interpolate(x, align_corners=False, **options)

    def call(module: nn.Module, x: Tensor) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoder, "F", types.SimpleNamespace(interpolate=resize))
            return module(x)

    bins, channels = (2, 3, 6), CHANNELS.layer4
    # Their decoder fuses with a 1x1 convolution, PSPNet and we with 3x3.
    fuse = modules.Conv2dReLU(2 * channels, WIDTH, 3, padding=1)
    return Match(
        built("ppm", implementation, bins=bins).context,
        Called(nn.Sequential(decoder.PSPModule(channels, bins), fuse), call),
        {"branches": "module.0.blocks", "fuse": "module.1"},
        (layer4(),),
        {"fuse.0.weight": lambda weight: weight.roll(-channels, dims=1)},  # x is their last part
    )


# --- mmsegmentation


class NoOperators(types.ModuleType):
    """In place of mmcv's compiled operators, which pip does not build: imported, not used here.

    What mmcv does without them, as its criss-cross attention, can then be imported too.
    """

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(*_: Any, **__: Any) -> None:
            raise NotImplementedError(name)

        return absent


def mmseg(module: str) -> Any:
    """A module of mmsegmentation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names that they moved
        importlib.import_module("mmcv")
        try:
            importlib.import_module("mmcv._ext")
        except ModuleNotFoundError:
            absent = NoOperators("mmcv._ext")
            absent.__spec__ = ModuleSpec(absent.__name__, None)  # mmengine looks for it
            sys.modules[absent.__name__] = absent
        return importlib.import_module(f"mmseg.{module}")


def mmseg_head(name: str, **options: Any) -> nn.Module:
    """A decode head that returns what it would classify."""
    options = {"in_channels": CHANNELS.layer4, "dropout_ratio": 0, **LAYERS, **options}
    heads = mmseg("models.decode_heads")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about losses, which every head builds
        head: nn.Module = getattr(heads, name)(channels=WIDTH, num_classes=CLASSES, **options)
    head.conv_seg = nn.Identity()
    return head


def on_map(head: nn.Module) -> Called:
    return Called(head, lambda head, x: head([x]))


def mmseg_fcn(implementation: str) -> Match:
    theirs = on_map(mmseg_head("FCNHead", num_convs=1, concat_input=False))
    return Match(built("fcn", implementation).context, theirs, {"0": "module.convs.0"}, (layer4(),))


def mmseg_fcn_concat(implementation: str) -> Match:
    ours = built("fcn", implementation, convolutions=2, concat_input=True).context
    theirs = on_map(mmseg_head("FCNHead", num_convs=2, concat_input=True))
    parts = {"convolutions": "module.convs", "fuse": "module.conv_cat"}
    return Match(ours, theirs, parts, (layer4(),))


def mmseg_ppm(implementation: str) -> Match:
    ours = built("ppm", implementation, pool_width=WIDTH).context
    parts = {"branches": "module.psp_modules", "fuse": "module.bottleneck"}
    return Match(ours, on_map(mmseg_head("PSPHead")), parts, (layer4(),))


def mmseg_aspp(implementation: str) -> Match:
    """Their bottleneck is 3x3: with weights in the middle only, it is the paper's 1x1."""
    dilations = (2, 12, 24)
    theirs = on_map(mmseg_head("ASPPHead", dilations=(1, *dilations)))
    parts = {
        "pixel": "module.aspp_modules.0",
        **{f"atrous.{i}": f"module.aspp_modules.{i + 1}" for i in range(3)},
        "image": "module.image_pool",
        "fuse": "module.bottleneck",
    }

    def image_first_and_padded(weight: Tensor) -> Tensor:
        return F.pad(weight.roll(WIDTH, dims=1), (1, 1, 1, 1))

    ours = built("aspp", implementation, dilations=dilations).context
    return Match(ours, theirs, parts, (layer4(),), {"fuse.0.weight": image_first_and_padded})


def mmseg_ocnet(implementation: str, share: bool) -> Match:
    """The attention alone. A shared transform runs twice there, so its statistics move twice."""
    attention = mmseg("models.utils").SelfAttentionBlock(
        key_in_channels=WIDTH,
        query_in_channels=WIDTH,
        channels=7,
        out_channels=WIDTH,
        share_key_query=share,
        query_downsample=None,
        key_downsample=None,
        key_query_num_convs=1,
        value_out_num_convs=1,
        key_query_norm=True,
        value_out_norm=False,
        matmul_norm=True,
        with_out=True,
        conv_cfg=None,
        **LAYERS,
    )
    options = {"key_channels": 7, "value_channels": 7, "share_key_query": share}
    ours = built("ocnet", implementation, **options).context.get_submodule("attention")
    names = {"key": "key", "value": "value", "output": "out"}
    if not share:
        names["query"] = "query"
    return Match(
        ours,
        Called(attention, lambda block, x: block(x, x)),
        {mine: f"module.{other}_project" for mine, other in names.items()},
        (random_map(WIDTH).relu(),),
    )


def mmseg_ocr(implementation: str, transforms: int) -> Match:
    """Two layers in phi and psi, as there; or one, as in the paper, without their second ones."""
    head = mmseg_head("OCRHead", ocr_channels=7)
    block = head.get_submodule("object_context_block")
    if transforms == 1:
        block.query_project = block.get_submodule("query_project.0")
        block.key_project = block.get_submodule("key_project.0")
    names = {"relation.phi": "query", "relation.psi": "key", "delta": "value", "rho": "out"}
    parts = {
        "reduce": "module.bottleneck",
        **{
            f"regions.{mine}": f"module.object_context_block.{other}_project"
            for mine, other in names.items()
        },
        "fuse": "module.object_context_block.bottleneck",
    }
    ours = built("ocr", implementation, key_channels=7, transforms=transforms).context
    theirs = Called(head, lambda head, x, coarse: head([x], coarse))
    return Match(ours, theirs, parts, (layer4(), 4 * random_map(CLASSES)))


def weighed(head: nn.Module, *stages: Tensor) -> Tensor:
    """The authors' code has y = relu(x + gamma x). x is not negative: y - x is the paper's gamma x.

    x is what enters the encoding module.
    """
    entered: list[Tensor] = []
    module = head.get_submodule("enc_module")
    hook = module.register_forward_pre_hook(lambda _, inputs: entered.extend(inputs))
    output: Tensor = head(stages)
    hook.remove()
    return output - entered[0]


ENCNET_DEEPEST = {"encoder.reduce": "module.bottleneck"}
ENCNET_LATERAL = {
    "encoder.reduce.deepest": "module.bottleneck",
    "encoder.reduce.laterals": "module.lateral_convs",
    "encoder.reduce.fuse": "module.fusion",
}


def mmseg_encnet(implementation: str, lateral: bool) -> Match:
    """Their e is a mean over codewords: equal to a sum with larger weights behind it.

    The convolution in front of the encoding, which the paper lacks, is taken out.
    """
    codewords = 5
    stages = small_features()[1:] if lateral else (layer4(),)
    head = mmseg_head(
        "EncHead",
        num_codes=codewords,
        use_se_loss=False,
        add_lateral=lateral,
        in_channels=[stage.shape[1] for stage in stages],
        in_index=list(range(len(stages))),
    )
    head.get_submodule("enc_module").encoding_project = nn.Identity()
    ours = built("encnet", implementation, codewords=codewords, lateral=lateral).context
    parts = {
        **(ENCNET_LATERAL if lateral else ENCNET_DEEPEST),
        "encoder.encoding": "module.enc_module.encoding.0",
        "encoder.norm": "module.enc_module.encoding.1",
        "gate": "module.enc_module.fc.0",
    }
    adapted = {
        "encoder.encoding.scale": torch.neg,  # their exponent has no minus
        "gate.weight": lambda weight: codewords * weight,
    }
    return Match(ours, Called(head, weighed), parts, stages, adapted)


def mmseg_encnet_as_released(implementation: str, lateral: bool) -> Match:
    """The authors' form as it stands there. They store the scale with a minus."""
    stages = small_features()[1:] if lateral else (layer4(),)
    head = mmseg_head(
        "EncHead",
        num_codes=5,
        use_se_loss=False,
        add_lateral=lateral,
        in_channels=[stage.shape[1] for stage in stages],
        in_index=list(range(len(stages))),
    )
    options = {"codewords": 5, "lateral": lateral, "release": "authors"}
    ours = built("encnet", implementation, **options).context
    parts = {
        **(ENCNET_LATERAL if lateral else ENCNET_DEEPEST),
        "encoder.before": "module.enc_module.encoding_project",
        "encoder.encoding": "module.enc_module.encoding.0",
        "encoder.norm": "module.enc_module.encoding.1",
        "gate": "module.enc_module.fc.0",
    }
    theirs = Called(head, lambda head, *stages: head(stages))
    return Match(ours, theirs, parts, stages, {"encoder.encoding.scale": torch.neg})


def mmseg_danet(implementation: str) -> Match:
    head = mmseg_head("DAHead", pam_channels=3)
    head.pam_conv_seg = head.cam_conv_seg = nn.Identity()  # of the branches: not compared
    parts = {}
    for branch, other in (("position", "pam"), ("channel", "cam")):
        parts |= {
            f"branches.{branch}.reduce": f"module.{other}_in_conv",
            f"branches.{branch}.attention.gate": f"module.{other}.gamma",
            f"branches.{branch}.refine": f"module.{other}_out_conv",
        }
    for name in ("query", "key", "value"):
        parts[f"branches.position.attention.{name}"] = f"module.pam.{name}_project"
    ours = built("danet", implementation, key_channels=3).context
    return Match(ours, Called(head, lambda head, x: head([x])[0]), parts, (layer4(),))


def mmseg_ccnet(implementation: str, release: str) -> Match:
    """In-place batch norm, as the authors have it, is followed by a leaky ReLU."""
    parts = {
        "reduce": "module.convs.0",
        **{f"attention.{name}": f"module.cca.{name}_conv" for name in ("query", "key", "value")},
        "attention.gate": "module.cca.gamma",
        "refine": "module.convs.1",
        "fuse": "module.conv_cat",
    }
    options = {"key_channels": WIDTH // 8, "recurrence": 2, "release": release}
    ours = built("ccnet", implementation, **options).context
    theirs = mmseg_head(
        "CCHead", recurrence=2, **({"act_cfg": LEAKY} if release == "authors" else {})
    )
    return Match(ours, on_map(theirs), parts, (layer4(),))


def mmseg_isa(implementation: str) -> Match:
    """Blocks of 4 x 4 do not divide 17 x 13 pixels, so the padding is compared too."""
    parts = {"reduce": "module.in_conv", "fuse": "module.out_conv"}
    for mine, other in (("far", "global"), ("near", "local")):
        for name in ("query", "key", "value", "output"):
            parts[f"attention.{mine}.{name}"] = f"module.{other}_relation.{name}_project"
    ours = built("isa", implementation, key_channels=7, down_factor=4).context
    theirs = on_map(mmseg_head("ISAHead", isa_channels=7, down_factor=(4, 4)))
    return Match(ours, theirs, parts, (layer4(),))


AROUND = {"reduce": "module.convs.0", "refine": "module.convs.1", "fuse": "module.conv_cat"}


def mmseg_non_local(implementation: str, pairwise: str, scaled: bool) -> Match:
    """A third of eight channels is two, there too."""
    names = {"theta": "theta", "phi": "phi", "g": "g", "output": "conv_out"}
    blocks = {f"attention.{mine}": f"module.nl_block.{other}" for mine, other in names.items()}
    options = {"key_channels": WIDTH // 3, "pairwise": pairwise, "scaled": scaled}
    ours = built("non_local", implementation, **options).context
    head = mmseg_head("NLHead", reduction=3, use_scale=scaled, mode=pairwise)
    return Match(ours, on_map(head), {**AROUND, **blocks}, (layer4(),))


def mmseg_dnlnet(implementation: str, scaled: bool) -> Match:
    head = mmseg_head("DNLHead", reduction=3, use_scale=scaled, temperature=0.5)
    names = {"theta": "theta", "phi": "phi", "g": "g", "mask": "conv_mask", "output": "conv_out"}
    blocks = {f"attention.{mine}": f"module.dnl_block.{other}" for mine, other in names.items()}
    options = {"key_channels": WIDTH // 3, "temperature": 0.5, "scaled": scaled}
    ours = built("dnlnet", implementation, **options).context
    return Match(ours, on_map(head), {**AROUND, **blocks}, (layer4(),))


def mmseg_gcnet(implementation: str) -> Match:
    """Seven tenths of eight channels are five. Layer norm over two would make 1 and -1 of all."""
    head = mmseg_head("GCHead", ratio=0.7, pooling_type="att", fusion_types=("channel_add",))
    blocks = {
        "attention.key": "module.gc_block.conv_mask",
        "attention.transform": "module.gc_block.channel_add_conv",
    }
    ours = built("gcnet", implementation, bottleneck=7 * WIDTH // 10).context
    return Match(ours, on_map(head), {**AROUND, **blocks}, (layer4(),))


def mmseg_emanet(implementation: str, concat: bool) -> Match:
    head = mmseg_head("EMAHead", ema_channels=9, num_bases=5, num_stages=3, concat_input=concat)
    parts = {
        "reduce": "module.ema_in_conv",
        "attention.bases.projection": "module.ema_mid_conv.conv.weight",
        "attention.bases.offset": "module.ema_mid_conv.conv.bias",
        "attention.bases.running": "module.ema_module.bases",
        "attention.output": "module.ema_out_conv",
        "refine": "module.bottleneck",
        **({"fuse": "module.conv_cat"} if concat else {}),
    }
    options = {"inner_channels": 9, "bases": 5, "concat_input": concat}
    ours = built("emanet", implementation, **options).context
    nn.init.normal_(ours.get_submodule("attention.bases").offset)
    adapted: dict[str, Callable[[Tensor], Tensor]] = {
        "attention.bases.projection": lambda weight: weight[:, :, None, None],
        "attention.bases.running": lambda bases: bases[None],
    }
    return Match(ours, on_map(head), parts, (layer4(),), adapted)


def mmseg_deeplabv3plus(implementation: str) -> Match:
    dilations = (2, 12, 24)
    head = mmseg_head(
        "DepthwiseSeparableASPPHead",
        dilations=(1, *dilations),
        c1_in_channels=CHANNELS.layer1,
        c1_channels=5,
    )
    parts = {
        "encoder.pixel": "module.aspp_modules.0",
        **{f"encoder.atrous.{i}": f"module.aspp_modules.{i + 1}" for i in range(3)},
        "encoder.image": "module.image_pool",
        "encoder.fuse": "module.bottleneck",
        "low": "module.c1_bottleneck",
        "fuse": "module.sep_bottleneck.0",
        "refine": "module.sep_bottleneck.1",
    }
    options = {"dilations": dilations, "separable": True, "fuse_kernel": 3, "low_channels": 5}
    ours = built("deeplabv3plus", implementation, **options).context
    features = small_features()
    return Match(
        ours,
        Called(head, lambda head, *stages: head(stages)),
        parts,
        (features.layer1, features.layer4),
        {"encoder.fuse.0.weight": lambda weight: weight.roll(WIDTH, dims=1)},  # theirs is first
    )


def mmseg_upernet(implementation: str) -> Match:
    head = mmseg_head("UPerHead", in_channels=list(CHANNELS), in_index=[0, 1, 2, 3])
    parts = {
        "top.branches": "module.psp_modules",
        "top.fuse": "module.bottleneck",
        "laterals": "module.lateral_convs",
        "pyramid": "module.fpn_convs",
        "fuse": "module.fpn_bottleneck",
    }
    theirs = Called(head, lambda head, *stages: head(stages))
    ours = built("upernet", implementation).context
    return Match(ours, theirs, parts, tuple(small_features()))


CASES: dict[str, Callable[[str], Match]] = {
    "aspp-torchvision": torchvision_aspp,
    "fcn-torchvision": torchvision_fcn,
}
ORACLES: dict[str, Callable[[str], Match]] = {
    "ppm-smp": smp_ppm,
    "fcn-mmseg": mmseg_fcn,
    "fcn-concat-mmseg": mmseg_fcn_concat,
    "ppm-mmseg": mmseg_ppm,
    "aspp-mmseg": mmseg_aspp,
    "ocnet-shared-mmseg": partial(mmseg_ocnet, share=True),
    "ocnet-two-transforms-mmseg": partial(mmseg_ocnet, share=False),
    "ocr-mmseg": partial(mmseg_ocr, transforms=1),
    "ocr-two-transforms-mmseg": partial(mmseg_ocr, transforms=2),
    "encnet-mmseg": partial(mmseg_encnet, lateral=False),
    "encnet-lateral-mmseg": partial(mmseg_encnet, lateral=True),
    "encnet-authors-mmseg": partial(mmseg_encnet_as_released, lateral=False),
    "encnet-authors-lateral-mmseg": partial(mmseg_encnet_as_released, lateral=True),
    "danet-mmseg": mmseg_danet,
    "ccnet-mmseg": partial(mmseg_ccnet, release="paper"),
    "ccnet-authors-mmseg": partial(mmseg_ccnet, release="authors"),
    "isa-mmseg": mmseg_isa,
    "non_local-mmseg": partial(mmseg_non_local, pairwise="embedded_gaussian", scaled=False),
    "non_local-scaled-mmseg": partial(mmseg_non_local, pairwise="embedded_gaussian", scaled=True),
    "non_local-product-mmseg": partial(mmseg_non_local, pairwise="dot_product", scaled=False),
    "dnlnet-mmseg": partial(mmseg_dnlnet, scaled=False),
    "dnlnet-scaled-mmseg": partial(mmseg_dnlnet, scaled=True),
    "gcnet-mmseg": mmseg_gcnet,
    "emanet-mmseg": partial(mmseg_emanet, concat=False),
    "emanet-concat-mmseg": partial(mmseg_emanet, concat=True),
    "deeplabv3plus-mmseg": mmseg_deeplabv3plus,
    "upernet-mmseg": mmseg_upernet,
}


def inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def convolutions(module: nn.Module, part: str) -> list[nn.Conv2d]:
    modules = module.named_modules()
    return [m for name, m in modules if inside(name, part) and isinstance(m, nn.Conv2d)]


def match_biases(match: Match) -> None:
    """Packages differ in the biases that batch norm makes redundant: theirs get those of ours."""
    for ours, theirs in match.parts.items():
        pairs = zip(convolutions(match.ours, ours), convolutions(match.theirs, theirs), strict=True)
        for mine, other in pairs:
            bias = None if mine.bias is None else nn.Parameter(torch.zeros_like(mine.bias))
            other.register_parameter("bias", bias)


def state_of_theirs(match: Match) -> dict[str, Tensor]:
    """Made of our parameters, which therefore get the gradients of both."""
    ours, theirs = match.ours.state_dict(keep_vars=True), match.theirs.state_dict()
    state = {}
    for a, b in match.parts.items():
        names = ([name for name in s if inside(name, p)] for s, p in ((ours, a), (theirs, b)))
        for mine, other in zip(*names, strict=True):
            tensor = match.adapted.get(mine, torch.Tensor.clone)(ours[mine])
            assert tensor.shape == theirs[other].shape, (mine, other)
            state[other] = tensor
    return state


def output_and_gradients(
    function: Callable[..., Tensor], match: Match, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {f"input {i}": x.to(dtype, copy=True) for i, x in enumerate(match.inputs)}
    output = function(*(leaf.requires_grad_() for leaf in leaves.values()))
    pixels = output.shape[-2] * output.shape[-1]
    weights = random_map(output.shape[1], output.shape[-2:])
    loss = (output * weights).sum() / math.sqrt(pixels)  # gradients near 1
    sources = {**leaves, **dict(match.ours.named_parameters())}
    gradients = torch.autograd.grad(loss, list(sources.values()), materialize_grads=True)
    return output, dict(zip(sources, gradients, strict=True))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(name, marks=pytest.mark.oracle) for name in ORACLES)]
)
def test_equal_weights_give_equal_outputs_and_gradients(
    case: str, dtype: torch.dtype, training: bool, implementation: str
) -> None:
    match = {**CASES, **ORACLES}[case](implementation)
    match_biases(match)
    ours, theirs = (m.to(dtype).train(training) for m in (match.ours, match.theirs))
    state = state_of_theirs(match)

    def tied(*inputs: Tensor) -> Tensor:
        return functional_call(theirs, state, inputs, strict=True)

    expected = output_and_gradients(tied, match, dtype)
    for name, gradient in expected[1].items():
        assert gradient.ndim < 2 or gradient.abs().max() > 1e-3, f"{name} has no effect"
    torch.testing.assert_close(
        output_and_gradients(ours, match, dtype), expected, **TOLERANCES[dtype]
    )
