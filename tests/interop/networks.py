"""Networks of other code bases as functions of the names of their tensors.

Running one on an image draws each tensor when its name is met, so that one text gives the state
dict, with names and shapes, and the logits. Nothing of the package is used. The peers themselves
were compared with the importers by hand (docs/checkpoints.md); these always run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

K = 5
EPS = 1e-5


@dataclass
class Net:
    """`in_place`: batch norms multiply by |weight| + eps, and ReLU behind those of heads is leaky.

    Weights are float32, as in files, and computed with in float64: some of these random networks
    magnify rounding a thousandfold. `nested`: a batch norm of a head and its ReLU are one entry of
    a Sequential.
    """

    in_place: bool = False
    nested: bool = False
    aligned: bool = True
    state: dict[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(3))

    def tensor(self, name: str, *shape: int, low: float = -1, high: float = 1) -> Tensor:
        if name not in self.state:
            drawn = torch.rand(shape, generator=self.generator)
            self.state[name] = low + (high - low) * drawn
        assert self.state[name].shape == shape, name
        return self.state[name].double()

    def conv(
        self,
        x: Tensor,
        name: str,
        out: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
    ) -> Tensor:
        inner = x.shape[1]
        bound = math.sqrt(6 / (inner * kernel**2))
        weight = self.tensor(f"{name}.weight", out, inner, kernel, kernel, low=-bound, high=bound)
        added = self.tensor(f"{name}.bias", out) if bias else None
        padding = dilation * (kernel // 2)
        return F.conv2d(x, weight, added, stride, padding, dilation)

    def norm(self, x: Tensor, name: str) -> Tensor:
        n = x.shape[1]
        weight = self.tensor(f"{name}.weight", n, low=-1.5 if self.in_place else 0.5, high=1.5)
        bias = self.tensor(f"{name}.bias", n, low=-0.3, high=0.3)
        mean = self.tensor(f"{name}.running_mean", n, low=-0.3, high=0.3)
        variance = self.tensor(f"{name}.running_var", n, low=0.5, high=2)
        factor = weight.abs() + EPS if self.in_place else weight
        return F.batch_norm(x, mean, variance, factor, bias, False, 0, EPS)

    def relu(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.01) if self.in_place else x.relu()

    def layer(
        self, x: Tensor, module: str, out: int, kernel: int = 1, *, at: int = 0,
        dilation: int = 1, bias: bool = True,
    ) -> Tensor:  # fmt: skip
        """Entry `at` of a Sequential, the batch norm behind it and ReLU."""
        x = self.conv(x, f"{module}.{at}", out, kernel, dilation=dilation, bias=bias)
        return self.relu(self.norm(x, f"{module}.{at + 1}" + (".0" if self.nested else "")))

    def resize(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=self.aligned)


# --- backbones: ResNet-18 at output stride 8, HRNet-W18-small


def resnet(
    net: Net,
    x: Tensor,
    prefix: str,
    stem: tuple[tuple[str, str], ...],
    *,
    entry_own: bool = False,
    ceil: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Layers 2 to 4; `stem` are convolutions and batch norms, three of them or one."""
    widths = (64, 64, 128) if len(stem) == 3 else (64,)
    for i, ((conv, norm), width) in enumerate(zip(stem, widths, strict=True)):
        x = net.conv(x, prefix + conv, width, 3 if len(stem) == 3 else 7, stride=1 if i else 2)
        x = net.norm(x, prefix + norm).relu()
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=ceil)
    maps = []
    for stage, (stride, rate) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4)), 1):
        first = rate if entry_own or rate == 1 else rate // 2
        for block in (0, 1):
            name, width = f"{prefix}layer{stage}.{block}.", 32 * 2**stage
            step = stride if block == 0 else 1
            entry = first if block == 0 else rate
            y = net.conv(x, f"{name}conv1", width, 3, stride=step, dilation=entry)
            y = net.norm(y, f"{name}bn1").relu()
            y = net.norm(net.conv(y, f"{name}conv2", width, 3, dilation=rate), f"{name}bn2")
            if step != 1 or x.shape[1] != width:
                x = net.conv(x, f"{name}downsample.0", width, stride=step)
                x = net.norm(x, f"{name}downsample.1")
            x = (x + y).relu()
        maps.append(x)
    return maps[1], maps[2], maps[3]


def hrnet(net: Net, x: Tensor, prefix: str) -> Tensor:
    """The representation, (N, 270, H/4, W/4)."""

    def conv(x: Tensor, name: str, norm: str, out: int, kernel: int, stride: int = 1) -> Tensor:
        return net.norm(net.conv(x, prefix + name, out, kernel, stride=stride), prefix + norm)

    def basic(x: Tensor, name: str) -> Tensor:
        y = conv(x, f"{name}.conv1", f"{name}.bn1", x.shape[1], 3).relu()
        return (x + conv(y, f"{name}.conv2", f"{name}.bn2", x.shape[1], 3)).relu()

    x = conv(x, "conv1", "bn1", 64, 3, 2).relu()
    x = conv(x, "conv2", "bn2", 64, 3, 2).relu()
    for block in (0, 1):
        name = f"layer1.{block}"
        y = conv(x, f"{name}.conv1", f"{name}.bn1", 64, 1).relu()
        y = conv(y, f"{name}.conv2", f"{name}.bn2", 64, 3).relu()
        y = conv(y, f"{name}.conv3", f"{name}.bn3", 256, 1)
        if block == 0:
            x = conv(x, f"{name}.downsample.0", f"{name}.downsample.1", 256, 1)
        x = (x + y).relu()
    first = conv(x, "transition1.0.0", "transition1.0.1", 18, 3).relu()
    maps = [first, conv(x, "transition1.1.0.0", "transition1.1.0.1", 36, 3, 2).relu()]
    for stage, modules in ((2, 1), (3, 3), (4, 2)):
        if stage > 2:
            name = f"transition{stage - 1}.{stage - 1}.0"
            maps.append(conv(maps[-1], f"{name}.0", f"{name}.1", 9 * 2**stage, 3, 2).relu())
        for module in range(modules):
            at = f"stage{stage}.{module}"
            for i in range(stage):
                for block in (0, 1):
                    maps[i] = basic(maps[i], f"{at}.branches.{i}.{block}")
            fused = []
            for i in range(stage):
                total = torch.zeros_like(maps[i])
                for j in range(stage):
                    part, name = maps[j], f"{at}.fuse_layers.{i}.{j}"
                    if j > i:
                        part = net.resize(
                            conv(part, f"{name}.0", f"{name}.1", total.shape[1], 1), total
                        )
                    for k in range(i - j):
                        last = k == i - j - 1
                        width = total.shape[1] if last else part.shape[1]
                        part = conv(part, f"{name}.{k}.0", f"{name}.{k}.1", width, 3, 2)
                        part = part if last else part.relu()
                    total = total + part
                fused.append(total.relu())
            maps = fused
    return torch.cat([net.resize(each, maps[0]) for each in maps], 1)


# --- attention


def attention(net: Net, x: Tensor, name: str, keys: int, values: int, layers: int) -> Tensor:
    """Between all pixels; with one layer queries are keys, as the file has them twice."""

    def transform(part: str) -> Tensor:
        y = x
        for index in range(layers):
            y = net.layer(y, f"{name}.{part}", keys, at=2 * index)
        return y.flatten(2)

    key = transform("f_key")
    if layers == 1:
        query = key
        for each in list(net.state):
            if each.startswith(f"{name}.f_key."):
                net.state[each.replace("f_key", "f_query")] = net.state[each]
    else:
        query = transform("f_query")
    value = net.conv(x, f"{name}.f_value", values, bias=True).flatten(2)
    weights = (query.transpose(1, 2) @ key / math.sqrt(keys)).softmax(-1)
    gathered = (value @ weights.transpose(1, 2)).view(len(x), values, *x.shape[-2:])
    return net.conv(gathered, f"{name}.W", x.shape[1], bias=True)


def regions(net: Net, x: Tensor, maps: Tensor, name: str, keys: int) -> Tensor:
    """What OCR's pixels gather of the regions that the maps are."""
    each = (x.flatten(2) @ maps.flatten(2).softmax(-1).transpose(1, 2)).unsqueeze(-1)

    def twice(y: Tensor, part: str) -> Tensor:
        y = net.layer(y, f"{name}.{part}", keys)
        return net.layer(y, f"{name}.{part}", keys, at=2).flatten(2)

    query, key = twice(x, "f_pixel"), twice(each, "f_object")
    value = net.layer(each, f"{name}.f_down", keys).flatten(2)
    weights = (query.transpose(1, 2) @ key / math.sqrt(keys)).softmax(-1)
    gathered = (value @ weights.transpose(1, 2)).view(len(x), keys, *x.shape[-2:])
    return net.layer(gathered, f"{name}.f_up", x.shape[1])


# --- OCNet.pytorch

SEMSEG = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))


def _ocnet(net: Net, image: Tensor) -> Tensor:
    _, layer3, layer4 = resnet(net, image, "", SEMSEG, entry_own=True, ceil=True)
    net.conv(net.layer(layer3, "dsn", 6, 3), "dsn.3", K, bias=True)
    return layer4


def ocnet_base(net: Net, image: Tensor) -> Tensor:
    x = net.layer(_ocnet(net, image), "context", 8, 3)
    context = attention(net, x, "context.2.stages.0", 4, 6, 1)
    x = net.layer(torch.cat([context, x], 1), "context.2.conv_bn_dropout", 8)
    return net.conv(x, "cls", K, bias=True)


def _pyramid_of(net: Net, x: Tensor, context: Tensor, out: int) -> Tensor:
    parts = [context, net.layer(x, "context.2.conv2", 6, bias=False)]
    for i, rate in enumerate((12, 24, 36)):
        module = f"context.2.conv{i + 3}"
        parts.append(net.layer(x, module, 6, 3, dilation=rate, bias=False))
    return net.layer(torch.cat(parts, 1), "context.2.conv_bn_dropout", out, bias=False)


def ocnet_asp(net: Net, image: Tensor) -> Tensor:
    x = net.layer(_ocnet(net, image), "context", 8, 3)
    near = net.layer(x, "context.2.context", 6, 3)
    pooled = attention(net, F.max_pool2d(near, 2), "context.2.context.2.stages.0", 3, 6, 1)
    module = "context.2.context.2.conv_bn_dropout"
    context = net.layer(net.resize(pooled, near), module, 6)
    return net.conv(_pyramid_of(net, x, context, 8), "cls", K, bias=True)


def ocnet_pyramid(net: Net, image: Tensor) -> Tensor:
    x = net.norm(net.conv(_ocnet(net, image), "layer5.0", 8, 3, bias=True), "layer5.1")
    parts = [net.layer(x, "context.up_dr", 32)]
    for level, bins in enumerate((1, 2, 3, 6)):
        height, width = x.shape[-2] // bins, x.shape[-1] // bins
        gathered = torch.zeros_like(x)
        for i in range(bins):
            for j in range(bins):
                down = slice(i * height, None if i == bins - 1 else (i + 1) * height)
                right = slice(j * width, None if j == bins - 1 else (j + 1) * width)
                cell = x[..., down, right]
                name = f"context.stages.{level}"
                gathered[..., down, right] = attention(net, cell, name, 4, 8, 1)
        parts.append(gathered)
    x = net.layer(torch.cat(parts, 1), "context.conv_bn_dropout", 8)
    return net.conv(x, "cls", K, bias=True)


# --- openseg.pytorch

RESINIT = tuple((f"resinit.conv{i}", f"resinit.bn{i}") for i in (1, 2, 3))


def _openseg(net: Net, image: Tensor) -> tuple[Tensor, Tensor]:
    return resnet(net, image, "backbone.", RESINIT, ceil=True)[1:]


def _ocr(net: Net, x: Tensor, maps: Tensor, module: str) -> Tensor:
    context = regions(net, x, maps, f"{module}.object_context_block", 4)
    return net.layer(torch.cat([context, x], 1), f"{module}.conv_bn_dropout", x.shape[1])


def openseg_ocr(net: Net, image: Tensor) -> Tensor:
    layer3, layer4 = _openseg(net, image)
    maps = net.conv(net.layer(layer3, "dsn_head", 6, 3), "dsn_head.3", K, bias=True)
    x = _ocr(net, net.layer(layer4, "conv_3x3", 8, 3), maps, "spatial_ocr_head")
    return net.conv(x, "head", K, bias=True)


def openseg_base_oc(net: Net, image: Tensor) -> Tensor:
    layer3, layer4 = _openseg(net, image)
    net.conv(net.layer(layer3, "dsn", 6, 3), "dsn.2", K, bias=True)
    x = net.layer(layer4, "oc_module_pre", 8, 3)
    context = attention(net, x, "oc_module.stages.0", 4, 6, 2)
    x = net.layer(torch.cat([context, x], 1), "oc_module.conv_bn_dropout", 8)
    return net.conv(x, "cls", K, bias=True)


def openseg_asp_oc(net: Net, image: Tensor) -> Tensor:
    layer3, layer4 = _openseg(net, image)
    net.conv(net.layer(layer3, "dsn", 6, 3), "dsn.2", K, bias=True)
    x = net.layer(layer4, "context", 8, 3)
    near = net.layer(x, "context.2.context", 6, 3)
    pooled = attention(net, F.max_pool2d(near, 2), "context.2.context.2.stages.0", 3, 3, 2)
    norm = "context.2.context.2.conv_bn_dropout.0" + (".0" if net.nested else "")
    context = net.relu(net.norm(net.resize(pooled, near), norm))
    return net.conv(_pyramid_of(net, x, context, 8), "cls", K, bias=True)


def openseg_fcn(net: Net, image: Tensor) -> Tensor:
    layer3, layer4 = _openseg(net, image)
    net.conv(net.layer(layer3, "dsn_head", 6, 3), "dsn_head.3", K)
    return net.conv(net.layer(layer4, "cls_head", 8, 3), "cls_head.3", K)


def openseg_hrnet_ocr(net: Net, image: Tensor) -> Tensor:
    x = hrnet(net, image, "backbone.")
    maps = net.conv(net.layer(x, "aux_head", 6, 3), "aux_head.2", K, bias=True)
    x = _ocr(net, net.layer(x, "conv3x3", 8, 3), maps, "ocr_distri_head")
    return net.conv(x, "cls_head", K, bias=True)


# --- HRNet-Semantic-Segmentation


def hrnet_ocr(net: Net, image: Tensor) -> Tensor:
    x = hrnet(net, image, "model.")
    inner = {name.removeprefix("model.") for name in net.state}
    assert "conv1.weight" in inner
    maps = net.conv(net.layer(x, "model.aux_head", 6), "model.aux_head.3", K, bias=True)
    x = _ocr(net, net.layer(x, "model.conv3x3_ocr", 8, 3), maps, "model.ocr_distri_head")
    return net.conv(x, "model.cls_head", K, bias=True)


def hrnet_fcn(net: Net, image: Tensor) -> Tensor:
    x = net.layer(hrnet(net, image, ""), "last_layer", 8)
    return net.conv(x, "last_layer.3", K, bias=True)


# --- PyTorch-Encoding

ENCODING = (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"))


def _encoding(net: Net, image: Tensor) -> tuple[Tensor, Tensor]:
    layer2, layer3, layer4 = resnet(net, image, "pretrained.", ENCODING)
    net.conv(net.layer(layer3, "auxlayer.conv5", 6, 3, bias=False), "auxlayer.conv5.4", K,
             bias=True)  # fmt: skip
    return layer2, layer4


def encoding_fcn(net: Net, image: Tensor) -> Tensor:
    _, layer4 = _encoding(net, image)
    x = net.layer(layer4, "head.conv5", 8, 3, bias=False)
    return net.conv(x, "head.conv5.4", K, bias=True)


def encoding_psp(net: Net, image: Tensor) -> Tensor:
    _, x = _encoding(net, image)
    parts = [x]
    for i, bins in enumerate((1, 2, 3, 6)):
        cells = F.adaptive_avg_pool2d(x, bins)
        cells = net.layer(cells, f"head.conv5.0.conv{i + 1}", 4, bias=False)
        parts.append(net.resize(cells, x))
    x = net.layer(torch.cat(parts, 1), "head.conv5", 8, 3, at=1, bias=False)
    return net.conv(x, "head.conv5.5", K, bias=True)


def encoding_deeplab(net: Net, image: Tensor) -> Tensor:
    _, x = _encoding(net, image)
    parts = [net.layer(x, "head.aspp.b0", 8, bias=False)]
    for i, rate in enumerate((12, 24, 36)):
        parts.append(net.layer(x, f"head.aspp.b{i + 1}", 8, 3, dilation=rate, bias=False))
    pooled = net.layer(x.mean((2, 3), keepdim=True), "head.aspp.b4.gap", 8, at=1, bias=False)
    parts.append(pooled.expand_as(parts[0]))
    x = net.layer(torch.cat(parts, 1), "head.aspp.project", 8, bias=False)
    x = net.layer(x, "head.block", 8, 3, bias=False)
    return net.conv(x, "head.block.4", K, bias=True)


def encoding_encnet(net: Net, image: Tensor) -> Tensor:
    layer2, layer4 = _encoding(net, image)
    layer3 = resnet(net, image, "pretrained.", ENCODING)[1]
    sides = [net.layer(each, f"head.connect.{i}", 8, bias=False)
             for i, each in enumerate((layer2, layer3))]  # fmt: skip
    x = torch.cat([net.layer(layer4, "head.conv5", 8, 3, bias=False), *sides], 1)
    x = net.layer(x, "head.fusion", 8, 3, bias=False)
    name = "head.encmodule.encoding"
    z = net.layer(x, name, 8, bias=False).flatten(2).transpose(1, 2)  # (N, h w, 8)
    residuals = z.unsqueeze(2) - net.tensor(f"{name}.3.codewords", 6, 8)
    scale = net.tensor(f"{name}.3.scale", 6, low=-1, high=0)
    shares = (scale * residuals.square().sum(-1)).softmax(-1)
    encoded = (shares.unsqueeze(-1) * residuals).sum(1)  # (N, codewords, 8)
    mean = net.norm(encoded, f"{name}.4").relu().mean(1)
    weight = net.tensor("head.encmodule.fc.0.weight", 8, 8)
    gate = F.linear(mean, weight, net.tensor("head.encmodule.fc.0.bias", 8)).sigmoid()
    net.tensor("head.encmodule.selayer.weight", K, 8)
    net.tensor("head.encmodule.selayer.bias", K)
    x = (x + x * gate[:, :, None, None]).relu()
    return net.conv(x, "head.conv6.1", K, bias=True)


Peer = Callable[[Net, Tensor], Tensor]
