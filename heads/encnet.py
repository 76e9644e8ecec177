"""Context encoding (EncNet): summarise the image with learned codewords, then weigh channels by it.

Source: Zhang et al., CVPR 2018, arXiv:1803.08904, section 3.
    r_ik = x_i - c_k                                            residuals, eq. (1)
    a_ik = softmax_k(-s_k |r_ik|^2)                             soft assignment of pixel i
    e_k = sum_i a_ik r_ik,   e = sum_k relu(bn(e_k))            encoded semantics
    gamma = sigmoid(G e),   y_i = gamma * x_i                   featuremap attention
    presence = P e                                              SE-loss: which classes are there?
Ours: x = relu(bn(W * layer4)), (N, C, h, w) with i over pixels; k runs over `codewords`; s_k is
positive at the start. Batch norm acts on the codeword axis. With 0 codewords, where the paper's
figure begins, e is the mean over pixels. With `lateral`, as an option of the authors' code has it,
    x = relu(bn(F * [relu(bn(W * layer4)), relu(bn(L_2 layer2)), relu(bn(L_3 layer3))])).
Departs: the authors' code (PyTorch-Encoding) encodes z = relu(bn(T x)), T 1x1, in place of x, takes
the mean over codewords in place of the sum, and gives y = relu(x + gamma * x). None of this is in
the paper; `release: authors` is that form, of which published weights store -s. The weight of `aux`
is 0.4, as for every head here, not their code's 0.2.
On stage 3 the paper does not say how the encoding is reduced: here as on stage 4, by a 3x3
convolution to `width`. Its gate would change nothing that is scored, so it has none.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from heads.attention import as_map
from heads.blocks import (
    AuxiliaryBranch,
    PixelClassifier,
    TwoForms,
    by_authors,
    checked_implementation,
    conv_bn_relu,
    full_precision,
    resize_like,
)
from heads.interface import (
    Attended,
    Channels,
    ContextHead,
    Features,
    HeadOutput,
    Implementation,
    Release,
)

SIMILARITY = (
    "Probability that a pixel and this one draw the same codeword, sum_k a_ik a_jk; the head "
    "itself never relates two pixels"
)
CODEWORDS = "Assignment a_ik of the pixel to the codewords k; sum 1, as at every pixel"
GATE = "Factor of each channel, in 0 .. 1, the same at every pixel of the image"


class Encoding(TwoForms):
    """The residual encoder: pixels (N, C, h, w) -> (N, codewords, C).

    Always in the parameters' precision, also under autocast: the expanded square of the fast form
    subtracts large, nearly equal numbers, of which bfloat16 keeps too few digits.
    """

    def __init__(self, channels: int, codewords: int, implementation: Implementation) -> None:
        super().__init__(implementation)
        bound = (channels * codewords) ** -0.5
        self.codewords = nn.Parameter(torch.empty(codewords, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(codewords).uniform_(0, 1))

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        with full_precision(x):
            return super().forward(x.flatten(2).to(self.codewords.dtype))

    def assignment(self, x: Tensor) -> Tensor:
        """a_ik of pixels (N, C, h, w): (N, codewords, h, w), of sum 1 at every pixel."""
        with full_precision(x):
            return as_map(self._assignment(x.flatten(2).to(self.codewords.dtype)), x)

    def _assignment(self, x: Tensor) -> Tensor:  # (N, C, h w) -> (N, codewords, h w)
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2: no residuals are stored.
        squares = x.square().sum(dim=1, keepdim=True)  # (N, 1, h w)
        products = self.codewords @ x  # (N, codewords, h w)
        distances = squares - 2 * products + self.codewords.square().sum(dim=1, keepdim=True)
        return (-self.scale[:, None] * distances).softmax(dim=1)  # over codewords, per pixel

    def _fast(self, x: Tensor) -> Tensor:  # (N, C, h w) -> (N, codewords, C)
        # sum_i a_ik (x_i - c_k) = A'X - diag(sum_i a_ik) C: here neither.
        assignment = self._assignment(x)
        totals = assignment.sum(dim=2, keepdim=True)  # (N, codewords, 1)
        return assignment @ x.transpose(1, 2) - totals * self.codewords

    def _reference(self, x: Tensor) -> Tensor:  # (N, C, h w) -> (N, codewords, C)
        residuals = x.transpose(1, 2).unsqueeze(2) - self.codewords  # (N, h w, codewords, C)
        distances = torch.einsum("nikc,nikc->nik", residuals, residuals)
        assignment = (-self.scale * distances).softmax(dim=-1)  # over codewords, per pixel
        return torch.einsum("nik,nikc->nkc", assignment, residuals)


class LateralReduction(nn.Module):
    """Layers 2 to 4, (N, C2, h2, w2), (N, C3, h3, w3), (N, C4, h, w) -> (N, width, h, w).

    Layers 2 and 3 are resized where they are larger, as at output strides above 8.
    """

    def __init__(self, channels: Channels, width: int) -> None:
        super().__init__()
        self.deepest = conv_bn_relu(channels.layer4, width, 3)
        self.laterals = nn.ModuleList(
            conv_bn_relu(stage, width) for stage in (channels.layer2, channels.layer3)
        )
        self.fuse = conv_bn_relu(3 * width, width, 3)

    def forward(self, layer2: Tensor, layer3: Tensor, layer4: Tensor) -> Tensor:
        x = self.deepest(layer4)
        stages = zip(self.laterals, (layer2, layer3), strict=True)
        beside = [resize_like(lateral(stage), x) for lateral, stage in stages]
        fused: Tensor = self.fuse(torch.cat([x, *beside], dim=1))
        return fused


class SemanticEncoder(nn.Module):
    """Reduction and encoded semantics: stages -> pixels (N, width, h, w), e (N, width).

    `reduce` makes the pixels, of `width` channels, from as many stages as it takes.
    """

    def __init__(
        self,
        reduce: nn.Module,
        width: int,
        codewords: int,
        release: Release,
        implementation: Implementation,
    ) -> None:
        super().__init__()
        self.reduce = reduce
        self.authors = by_authors(release)
        checked_implementation(implementation)  # also where there is no encoding
        self.encoding: Encoding | None = None
        if codewords:
            self.before = conv_bn_relu(width, width) if self.authors else nn.Identity()
            self.encoding = Encoding(width, codewords, implementation)
            self.norm = nn.Sequential(nn.BatchNorm1d(codewords), nn.ReLU(inplace=True))

    def forward(self, *stages: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self.reduce(*stages)
        if self.encoding is None:
            return pixels, pixels.mean(dim=(2, 3))
        encoded = self.norm(self.encoding(self.before(pixels)))  # (N, codewords, width)
        return pixels, encoded.mean(dim=1) if self.authors else encoded.sum(dim=1)


class ContextEncoding(nn.Module):
    """What the reduction of `encoder` takes -> (N, width, h, w)."""

    def __init__(self, encoder: SemanticEncoder, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.gate = nn.Linear(width, width)

    def forward(self, *stages: Tensor) -> Tensor:
        return self.weigh(*self.encoder(*stages))

    def weigh(self, pixels: Tensor, semantics: Tensor) -> Tensor:
        """Scale the channels of `pixels` (N, width, h, w) by a gate made from (N, width)."""
        gated = pixels * self.gamma(semantics)[:, :, None, None]
        return (pixels + gated).relu() if self.encoder.authors else gated

    def gamma(self, semantics: Tensor) -> Tensor:
        """The gate of each channel: (N, width) -> (N, width), in 0 .. 1."""
        gate: Tensor = self.gate(semantics).sigmoid()
        return gate

    def attended(self, stages: Sequence[Tensor], pixel: tuple[int, int]) -> dict[str, Attended]:
        """The codewords of the pixel (row, column), and the gate, which all pixels share."""
        pixels, semantics = self.encoder(*stages)
        gate = Attended(self.gamma(semantics), GATE, "channel")
        if self.encoder.encoding is None:
            return {"gate": gate}
        encoded = self.encoder.before(pixels)
        assignment = self.encoder.encoding.assignment(encoded)  # (N, codewords, h, w)
        own = assignment[:, :, *pixel]  # (N, codewords)
        similarity = torch.einsum("nk,nkhw->nhw", own, assignment)
        return {
            "similarity": Attended(similarity, SIMILARITY),
            "codewords": Attended(own, CODEWORDS, "codeword", assignment),
            "gate": gate,
        }


class PresenceBranch(nn.Module):
    """SE-loss on an earlier stage: {"presence3": (N, K) logits} in training, {} otherwise."""

    def __init__(self, encoder: SemanticEncoder, classifier: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        if not self.training:
            return {}
        _, semantics = self.encoder(features)
        return {"presence3": self.classifier(semantics)}


class EncNetHead(ContextHead):
    """`se_loss` adds the presence logits; `se_stage3` a second encoder with its own on layer3.

    `lateral` puts layers 2 and 3 beside layer4 in front of the encoding. The weights of the
    SE-losses are the loss weights `presence` and `presence3`.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {"aux": 0.4, "presence": 0.2}

    context: ContextEncoding

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        codewords: int = 32,
        se_loss: bool = True,
        se_stage3: bool = False,
        lateral: bool = False,
        release: Release = "paper",
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        super().__init__()
        self.lateral = lateral
        reduce = (
            LateralReduction(channels, width)
            if lateral
            else conv_bn_relu(channels.layer4, width, 3)
        )
        encoder = SemanticEncoder(reduce, width, codewords, release, implementation)
        self.context = ContextEncoding(encoder, width)
        self.classifier = PixelClassifier(width, num_classes, dropout)
        self.auxiliary = AuxiliaryBranch(
            channels.layer3, num_classes, width=aux_width, dropout=dropout
        )
        self.presence = nn.Linear(width, num_classes) if se_loss else None
        self.presence3: PresenceBranch | None = None
        if se_stage3:
            third = conv_bn_relu(channels.layer3, width, 3)
            encoder = SemanticEncoder(third, width, codewords, release, implementation)
            self.presence3 = PresenceBranch(encoder, nn.Linear(width, num_classes))
        weights = {"aux": 0.4, "presence": 0.2, "presence3": 0.2}
        emitted = {"aux": True, "presence": se_loss, "presence3": se_stage3}
        # The terms depend on the options, so the instance narrows what the class declares.
        self.loss_weights = {  # type: ignore[misc]
            name: weight for name, weight in weights.items() if emitted[name]
        }

    def context_inputs(self, features: Features) -> tuple[Tensor, ...]:
        return features[1:] if self.lateral else (features.layer4,)

    def forward(self, features: Features) -> HeadOutput:
        # In two steps because the SE-loss needs the semantics inside the context module.
        pixels, semantics = self.context.encoder(*self.context_inputs(features))
        logits = self.classifier(self.context.weigh(pixels, semantics))
        aux = self.auxiliary(features.layer3)
        presence = self._presence(features, semantics)
        return HeadOutput(logits, pixel_aux=aux, image_aux=presence)

    def _attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        return self.context.attended(self.context_inputs(features), pixel)

    def _presence(self, features: Features, semantics: Tensor) -> dict[str, Tensor]:
        presence = {} if self.presence3 is None else self.presence3(features.layer3)
        if self.training and self.presence is not None:
            presence = {"presence": self.presence(semantics), **presence}
        return presence
