"""Object-contextual representations (OCR): each pixel gathers the classes that it resembles.

Source: Yuan et al., ECCV 2020, arXiv:1909.11065, section 3.2.
    m_ki = softmax_i(s_ki)                          soft object region k, over the pixels i
    f_k = sum_i m_ki x_i                            region representation
    w_ik = softmax_k(phi(x_i) . psi(f_k) / sqrt(d)) relation of pixel i and region k
    y_i = rho(sum_k w_ik delta(f_k)),   z_i = g([y_i, x_i])
Ours: x = relu(bn(W * layer4)); s are coarse logits predicted from layer3; phi, psi, delta, rho, g
are 1x1 convolution, batch norm and ReLU (one layer each, as in the paper); d is `key_channels`.
Departs: the paper's formula has no 1 / sqrt(d); the authors' code has it, and so have we. Their
code for old versions of torch is built on in-place batch norm, whose ReLU is leaky (slope 0.01);
its branch for torch 1.7 has ReLU, and so have we.

Variants, by option:
`region_supervision: false` is the ablation of section 4.2: the loss on the soft regions is removed
and an ordinary auxiliary loss on stage 3 added instead, all else equal.
`relation` compares three ways to get w_ik, section 4.2: `ocr` as above; `double_attention`, from
the pixels alone; `acf`, the coarse scores themselves. A way has the parameters that it needs.
`transforms: 2` is the authors' code: two layers in phi and in psi.
`aux_kernel: 1` makes the convolution in front of the coarse logits 1x1, as in the authors' network
on HRNet.
`delta_on: pixels` gathers delta(x_i) in place of x_i for the values. It is the order that the
340 GFLOPs of the paper's complexity table need (with `regions`: 336), and another function.
`ground_truth_regions: true` is the paper's upper bound, with ideal regions: m_ki and w_ik from the
label map, m_ki equal on all pixels of class k and w_ik = 1 if i is of class k, else 0. An absent
class and a pixel without label have zero vectors; the authors' code gives ignored pixels a region
of their own instead. phi, psi and the coarse branch have no use then and do not exist; layer3 has
the auxiliary branch of other heads.
"""

from torch import Tensor, nn

from heads.blocks import ConvOverConcat, PixelBranch, conv_bn_relu
from heads.interface import Channels, Features, HeadOutput, Implementation
from heads.regions import (
    DeltaInput,
    RegionContext,
    RegionHead,
    RegionModule,
    RegionScheme,
    Relation,
)


class ObjectContextualRepresentation(RegionModule):
    """Deep features (N, C, h, w) and maps of K classes (N, K, h, w) -> (N, width, h, w)."""

    def __init__(
        self,
        channels: int,
        width: int,
        key_channels: int,
        num_regions: int,
        scheme: RegionScheme,
        implementation: Implementation,
    ) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(channels, width, 3, bias=True)
        self.regions = RegionContext(width, key_channels, num_regions, scheme)
        self.fuse = ConvOverConcat([width, width], width, 1, implementation, bias=True)

    def forward(self, features: Tensor, maps: Tensor) -> Tensor:
        x = self.reduce(features)  # (N, width, h, w)
        fused: Tensor = self.fuse(self.regions(x, maps), x)
        return fused


class UnlabelledRegions(nn.Module):
    """The ideal regions of an image without a single label: x (N, C, h, w) -> (N, K, h, w)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], self.num_classes, *x.shape[-2:])


class OCRHead(RegionHead):
    """`implementation: fast` never holds the concatenation [y, x]: a third less memory at the peak.

    With `ground_truth_regions` the labels come through `forward_with_regions`; `forward` alone sees
    an image without labels, which serves to measure costs and to nothing else.
    """

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        key_channels: int = 256,
        region_supervision: bool = True,
        relation: Relation = "ocr",
        transforms: int = 1,
        delta_on: DeltaInput = "regions",
        ground_truth_regions: bool = False,
        aux_width: int | None = None,
        aux_kernel: int = 3,
        dropout: float = 0.05,
        implementation: Implementation = "fast",
    ) -> None:
        if aux_kernel not in (1, 3):
            raise ValueError(f"aux_kernel must be 1 or 3, got {aux_kernel}")
        scheme = RegionScheme(relation, transforms, delta_on, ground_truth_regions)
        coarse = (
            UnlabelledRegions(num_classes)
            if ground_truth_regions
            else PixelBranch(
                channels.layer3,
                num_classes,
                width=aux_width,
                kernel=aux_kernel,
                dropout=dropout,
            )
        )
        context = ObjectContextualRepresentation(
            channels.layer4, width, key_channels, num_classes, scheme, implementation
        )
        super().__init__(
            coarse,
            context,
            channels,
            num_classes,
            width=width,
            aux_width=aux_width,
            dropout=dropout,
            region_supervision=region_supervision and not ground_truth_regions,
        )
        self.ideal_regions = num_classes if ground_truth_regions else 0

    def forward_with_regions(self, features: Features, regions: Tensor) -> HeadOutput:
        return self._output(features, regions)
