"""Small heads and inputs for the tests: every head in both forms, widths of a few channels."""

import itertools
from typing import Any, get_args

import torch
from torch import Tensor, nn

from heads import HEADS, Channels, ContextHead, Features, HeadOutput, build_head
from heads.interface import Implementation

CHANNELS = Channels(4, 6, 10, 12)
CLASSES = 5
WIDTH = 8
IMPLEMENTATIONS = get_args(Implementation)
ONE_CELL = (
    "ppm",
    "ppm-max",
    "ppm-aligned",
    "aspp",
    "aspp-wide-fusion",
    "aspp-refined",
)  # batch norm follows a branch pooled to 1x1

# Every head, and the options that add parameters or terms.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in HEADS},
    "fcn-concat": ("fcn", {"convolutions": 2, "concat_input": True}),
    "ppm-max": ("ppm", {"pooling": "max"}),
    "ppm-aligned": ("ppm", {"align_corners": True}),
    "ppm-no-reduction": ("ppm", {"reduction": False}),
    "aspp-no-image": ("aspp", {"image_pooling": False}),
    "aspp-wide-fusion": ("aspp", {"fuse_kernel": 3, "dilations": [1, 2, 30]}),
    "aspp-refined": ("aspp", {"refine": True}),
    # Equal key and value widths, as in the paper, are what the fused attention kernels accept.
    "ocnet": ("ocnet", {"key_channels": 7, "value_channels": 7}),
    "ocnet-two-transforms": (
        "ocnet",
        {"share_key_query": False, "key_channels": 7, "value_channels": 6},
    ),
    "pyramid_oc": ("pyramid_oc", {"key_channels": 7, "value_channels": 6}),
    "pyramid_oc-equal-widths": ("pyramid_oc", {"key_channels": 7, "value_channels": 7}),
    "asp_oc": ("asp_oc", {"branch_width": 5, "key_channels": 3, "value_channels": 4}),
    "asp_oc-equal-widths": ("asp_oc", {"branch_width": 5, "key_channels": 4, "value_channels": 4}),
    "ocr": ("ocr", {"key_channels": 7}),
    "ocr-unsupervised": ("ocr", {"key_channels": 7, "region_supervision": False}),
    "ocr-double-attention": ("ocr", {"key_channels": 7, "relation": "double_attention"}),
    "ocr-acf": ("ocr", {"key_channels": 7, "relation": "acf"}),
    "ocr-pixel-delta": ("ocr", {"key_channels": 7, "delta_on": "pixels"}),
    "ocr-two-transforms": ("ocr", {"key_channels": 7, "transforms": 2}),
    # On noise all regions are nearly equal, so that batch norm in training magnifies bfloat16's
    # rounding of them: by how much depends on the draw of weights, up to 8 % with other widths.
    "asp_ocr": (
        "asp_ocr",
        {"context_width": 9, "branch_width": 6, "key_channels": 6, "dilations": [1, 2, 30]},
    ),
    "encnet-stage3": ("encnet", {"se_stage3": True, "codewords": 5}),
    "isa": ("isa", {"key_channels": 7}),
    "isa-pairs": ("isa", {"key_channels": WIDTH, "down_factor": 2}),
    # As with asp_ocr, the draw of weights decides how far training magnifies bfloat16's rounding.
    "double_attention": ("double_attention", {"key_channels": 9, "regions": 5}),
    "danet": ("danet", {"key_channels": 7}),
    "danet-position": ("danet", {"key_channels": WIDTH, "channel": False}),
    "danet-channel": ("danet", {"position": False}),
    "ccnet": ("ccnet", {"key_channels": 7}),
    "ccnet-one-round": ("ccnet", {"key_channels": WIDTH, "recurrence": 1}),
    "ocnet-authors": ("ocnet", {"release": "authors", "key_channels": 7, "value_channels": 7}),
    "pyramid_oc-authors": (
        "pyramid_oc",
        {"release": "authors", "key_channels": 7, "value_channels": 6},
    ),
    "asp_oc-authors": (
        "asp_oc",
        {"release": "authors", "branch_width": 5, "key_channels": 3, "value_channels": 4},
    ),
    "encnet-authors": ("encnet", {"release": "authors", "codewords": 5, "se_stage3": True}),
    "ccnet-authors": ("ccnet", {"release": "authors", "key_channels": 7}),
    "encnet-no-se-loss": ("encnet", {"se_loss": False}),
    "encnet-lateral": ("encnet", {"lateral": True}),
    "encnet-no-codewords": ("encnet", {"codewords": 0}),
}


def small_head(
    variant: str,
    implementation: str = "fast",
    *,
    dropout: float = 0.0,
    seed: int = 0,
    sharp: bool = True,
) -> ContextHead:
    """Seeded, so that two calls have equal parameters; batch norm and attention made to matter."""
    name, options = VARIANTS[variant]
    torch.manual_seed(seed)
    head = build_head(
        name,
        CHANNELS,
        CLASSES,
        width=WIDTH,
        dropout=dropout,
        implementation=implementation,
        **options,
    )
    randomize_norms(head)
    if sharp:
        sharpen(head)
    return head


def sharpen(module: nn.Module) -> None:
    """Larger weights: with the library's, attention is almost uniform, whatever it attends to."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)


def randomize_norms(module: nn.Module) -> None:
    """Statistics and affine parameters away from their neutral start, variances positive."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.3)
    for parameter in module.parameters():
        if parameter.ndim == 0:  # a gate that starts at 0 hides what is behind it
            nn.init.constant_(parameter, 0.7)


def small_features(
    height: int = 17, width: int = 13, *, batch: int = 2, dtype: torch.dtype = torch.float32
) -> Features:
    generator = torch.Generator().manual_seed(1)
    sizes = [(2 * height, 2 * width), *[(height, width)] * 3]
    return Features(
        *(
            torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64).to(dtype)
            for channels, size in zip(CHANNELS, sizes, strict=True)
        )
    )


def tensors(output: HeadOutput) -> list[Tensor]:
    """All logits of an output, in a fixed order."""
    return [output.logits, *output.pixel_aux.values(), *output.image_aux.values()]


def scalar_loss(output: HeadOutput) -> Tensor:
    """A smooth function of every logit, different for each."""
    weights = itertools.count(1)
    losses = [(logits * logits.sin()).mean() * next(weights) for logits in tensors(output)]
    return torch.stack(losses).sum()
