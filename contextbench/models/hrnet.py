"""HRNetV2, as its authors' segmentation code computes it, at any size of image.

Source: Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", TPAMI
2021, arXiv:1908.07919v2, sections 3.1 to 3.3. Four branches y_1 .. y_4 of strides 4, 8, 16, 32 and
widths C, 2C, 4C, 8C exchange what they know after every few blocks:

    y_i = relu(sum_j f_ij(x_j)),  f_ij: strided 3x3 convolutions where j < i, x_i itself where
                                  j = i, a 1x1 convolution and bilinear resizing where j > i
    representation = [y_1, up(y_2), up(y_3), up(y_4)]      15 C channels at stride 4

As with timm's HRNets (`timm_backbone`) the representation is `layer3` and `layer4`; `layer1` and
`layer2` are y_1 and y_2. Unlike these, a map is resized to the size of the one that it is added to,
so that no image is padded. Names of parameters are the authors'. Resizing is with aligned corners
only with `align_corners`, as in some of the published networks. With `scaled_exchange`, as in
mmsegmentation, a coarser map is enlarged by its power of two before it is resized.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from contextbench.config.protocols import weights_file
from contextbench.models.backbone import Backbone, initialise
from contextbench.models.pretrained import Naming, Wanted, WeightsError, fit
from heads.blocks import resize_like
from heads.interface import Channels, Features

STRIDE = 4
STEM = 64  # channels; those of layer1 are four times as many


@dataclass(frozen=True)
class HRNetSpec:
    """C, bottlenecks of layer1, modules of stages 2 to 4, basic blocks of a branch in a module."""

    width: int
    bottlenecks: int = 4
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4


HRNETS = {
    "hrnet_w18_small_v2": HRNetSpec(18, 2, (1, 3, 2), 2),
    "hrnet_w18": HRNetSpec(18),
    "hrnet_w32": HRNetSpec(32),
    "hrnet_w40": HRNetSpec(40),
    "hrnet_w48": HRNetSpec(48),
}


class Exchange(nn.Module):
    """Blocks of every branch, then what each branch takes from the others."""

    def __init__(self, widths: list[int], blocks: int, align_corners: bool, scaled: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.scaled = scaled
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(blocks))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_exchanged(widths, j, i) for j in range(len(widths)))
            for i in range(len(widths))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x = [branch(each) for branch, each in zip(self.branches, maps, strict=True)]
        return [self._fused(x, i) for i in range(len(x))]

    def _fused(self, x: list[Tensor], i: int) -> Tensor:
        layers = self.fuse_layers[i]
        assert isinstance(layers, nn.ModuleList)
        parts = [self._like(layer(x[j]), x[i], j - i) for j, layer in enumerate(layers)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total.relu()

    def _like(self, part: Tensor, target: Tensor, coarser: int) -> Tensor:
        if self.scaled and coarser > 0:
            aligned = self.align_corners
            part = F.interpolate(
                part, scale_factor=2**coarser, mode="bilinear", align_corners=aligned
            )
        return resize_like(part, target, align_corners=self.align_corners)


class HRNet(Backbone):
    """Images (N, 3, H, W) to `Features`, each side of a map half of the one before, rounded up."""

    output_stride = STRIDE

    def __init__(
        self, spec: HRNetSpec, *, align_corners: bool = False, scaled_exchange: bool = False
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        widths = [spec.width * 2**i for i in range(4)]
        total = sum(widths)
        self.channels = Channels(widths[0], widths[1], total, total)
        self.conv1, self.bn1 = _conv3x3(3, STEM, 2), nn.BatchNorm2d(STEM)
        self.conv2, self.bn2 = _conv3x3(STEM, STEM, 2), nn.BatchNorm2d(STEM)
        self.layer1 = _bottlenecks(spec.bottlenecks)
        self.transition1 = nn.ModuleList(
            [_layer(4 * STEM, widths[0]), nn.Sequential(_layer(4 * STEM, widths[1], 2))]
        )
        self.transition2, self.transition3 = _new_branch(widths[:3]), _new_branch(widths)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(
                *(
                    Exchange(widths[:branches], spec.blocks, align_corners, scaled_exchange)
                    for _ in range(count)
                )
            )
            for branches, count in zip((2, 3, 4), spec.modules, strict=True)
        )
        initialise(self)

    def forward(self, images: Tensor) -> Features:
        x = self.bn1(self.conv1(self.prepared(images))).relu()
        x = self.layer1(self.bn2(self.conv2(x)).relu())
        maps = self.stage2([transition(x) for transition in self.transition1])
        maps = self.stage3(_with_branch(self.transition2, maps))
        maps = self.stage4(_with_branch(self.transition3, maps))
        same_size = [resize_like(y, maps[0], align_corners=self.align_corners) for y in maps]
        representation = torch.cat(same_size, dim=1)
        return Features(maps[0], maps[1], representation, representation)


def build_hrnet(
    name: str,
    *,
    output_stride: int,
    weights: str | None = None,
    align_corners: bool = False,
    scaled_exchange: bool = False,
) -> HRNet:
    """One of `HRNETS`; `weights` is a file that has its tensors.

    Raises ValueError for another output stride and `WeightsError` for bad weights.
    """
    if output_stride != STRIDE:
        raise ValueError(
            f"output_stride {output_stride}: {name} has maps of stride {STRIDE}, and no other; set "
            f"backbone.output_stride: {STRIDE}"
        )
    built = HRNet(HRNETS[name], align_corners=align_corners, scaled_exchange=scaled_exchange)
    if weights is None:
        return built
    file = weights_file(weights)
    if file is None:
        raise WeightsError(f"backbone.weights {weights!r}: of {name} a file can be read, no name")
    shapes = {key: tuple(tensor.shape) for key, tensor in built.state_dict().items()}
    own = Naming("names of HRNet's authors", {key: key for key in shapes})
    fitted = fit(file, Wanted(name=name, shapes=shapes, namings=[own]))
    if not built.bn1.weight.is_meta:
        built.load_state_dict(fitted.tensors, strict=False)  # batch norms may lack a counter
    built.origin = fitted.origin
    return built


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


def _layer(inputs: int, outputs: int, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    parts = [_conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *([nn.ReLU(inplace=True)] if relu else []))


def _bottlenecks(count: int) -> nn.Sequential:
    shortcut = nn.Sequential(
        nn.Conv2d(STEM, 4 * STEM, kernel_size=1, bias=False), nn.BatchNorm2d(4 * STEM)
    )
    first = Bottleneck(STEM, STEM, downsample=shortcut)
    return nn.Sequential(first, *(Bottleneck(4 * STEM, STEM) for _ in range(count - 1)))


def _new_branch(widths: list[int]) -> nn.ModuleList:
    """What gives one branch more, of half the resolution, from the last one."""
    added = nn.Sequential(_layer(widths[-2], widths[-1], 2))
    return nn.ModuleList([*(nn.Identity() for _ in widths[:-1]), added])


def _with_branch(transition: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    return [*maps, transition[-1](maps[-1])]


def _exchanged(widths: list[int], source: int, target: int) -> nn.Module:
    """f_ij but for the resizing: from branch `source` to branch `target`."""
    inputs, outputs = widths[source], widths[target]
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, bias=False), nn.BatchNorm2d(outputs)
        )
    steps = target - source
    halving = [_layer(inputs, inputs, 2) for _ in range(steps - 1)]
    return nn.Sequential(*halving, _layer(inputs, outputs, 2, relu=False))
