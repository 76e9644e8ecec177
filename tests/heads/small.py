"""Every head in both forms, with widths of a few channels; more of them in `heads.small`."""

from typing import Any

from heads import HEADS, ContextHead
from heads.contract import FORMS as IMPLEMENTATIONS
from heads.small import (
    CHANNELS,
    CLASSES,
    WIDTH,
    Subject,
    randomize_norms,
    scalar_loss,
    sharpen,
    small_features,
    tensors,
)

__all__ = [
    "CHANNELS",
    "CLASSES",
    "IMPLEMENTATIONS",
    "ONE_CELL",
    "VARIANTS",
    "WIDTH",
    "randomize_norms",
    "scalar_loss",
    "sharpen",
    "small_features",
    "small_head",
    "subject",
    "tensors",
]

ONE_CELL = (
    "ppm",
    "ppm-max",
    "ppm-aligned",
    "aspp",
    "aspp-wide-fusion",
    "aspp-refined",
    "deeplabv3plus",
    "deeplabv3plus-separable",
    "upernet",
    "upernet-aligned",
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
    # Seven keys and values: products are summed the other way on maps of more than seven pixels.
    "non_local": ("non_local", {"key_channels": 7}),
    "non_local-scaled": ("non_local", {"key_channels": 7, "scaled": True, "concat_input": False}),
    "non_local-product": ("non_local", {"key_channels": 7, "pairwise": "dot_product"}),
    "dnlnet": ("dnlnet", {"key_channels": 7}),
    "gcnet": ("gcnet", {"bottleneck": 3}),
    "emanet": ("emanet", {"inner_channels": 9, "bases": 5}),
    "deeplabv3plus": ("deeplabv3plus", {"low_channels": 5, "dilations": [1, 2, 30]}),
    "deeplabv3plus-separable": (
        "deeplabv3plus",
        {"low_channels": 5, "separable": True, "fuse_kernel": 3, "align_corners": True},
    ),
    "upernet-aligned": ("upernet", {"align_corners": True}),
    "emanet-concat": ("emanet", {"inner_channels": 8, "bases": 5, "concat_input": True}),
}


def subject(variant: str) -> Subject:
    name, options = VARIANTS[variant]
    return Subject(HEADS[name], {"width": WIDTH, **options})


def small_head(
    variant: str,
    implementation: str = "fast",
    *,
    dropout: float = 0.0,
    seed: int = 0,
    sharp: bool = True,
) -> ContextHead:
    """Seeded, so that two calls have equal parameters; batch norm and attention made to matter."""
    return subject(variant).built(implementation, dropout=dropout, seed=seed, sharp=sharp)
