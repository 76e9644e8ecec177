"""FCN: no context module, a 3x3 convolution on the deepest features. The baseline.

Source: Long et al., CVPR 2015, arXiv:1411.4038, in the form that the papers of the other heads
compare with ("dilated FCN"): f = relu(bn(W * x)), x is layer4, (N, C4, h, w).
Departs: no skip connections, which dilation replaces; a branch on layer3 as in every head.
"""

from collections.abc import Mapping
from typing import ClassVar

from heads.blocks import AuxiliaryBranch, PixelClassifier, checked_implementation, conv_bn_relu
from heads.interface import Channels, ContextHead, Features, HeadOutput, Implementation


class FCNHead(ContextHead):
    """`implementation` makes no difference: the formula is already one convolution."""

    loss_weights: ClassVar[Mapping[str, float]] = {"aux": 0.4}

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        super().__init__()
        checked_implementation(implementation)
        self.context = conv_bn_relu(channels.layer4, width, 3, bias=True)
        self.classifier = PixelClassifier(width, num_classes, dropout)
        self.auxiliary = AuxiliaryBranch(
            channels.layer3, num_classes, width=aux_width, dropout=dropout
        )

    def forward(self, features: Features) -> HeadOutput:
        pixels = self.context(features.layer4)  # (N, width, h, w)
        aux = self.auxiliary(features.layer3)
        return HeadOutput(self.classifier(pixels), pixel_aux=aux, image_aux={})
