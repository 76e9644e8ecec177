"""Heads of mmsegmentation, as heads here: options from shapes and configuration, and names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from contextbench.interop.configurations import Part
from contextbench.interop.facts import Facts
from contextbench.interop.files import ImportedError
from contextbench.interop.literals import UNREADABLE
from contextbench.interop.structure import Change, convolved

RELU, LEAKY = "relu", "leaky_relu"


@dataclass(frozen=True)
class Theirs:
    """A head's tensors below `prefix`, its configuration, and what is known of the model."""

    prefix: str
    tensors: Mapping[str, Tensor]
    config: Part
    facts: Facts

    def rows(self, name: str) -> int:
        """Output channels of a weight. Raises `ImportedError` where the file lacks it."""
        if name not in self.tensors:
            raise ImportedError(f"import: the file has no tensor {self.prefix}.{name}")
        return len(self.tensors[name])

    def product(self, weight: str, vector: str) -> Tensor:
        """Of a 1x1 convolution's weight and a vector. Raises `ImportedError` as `rows` does."""
        self.rows(weight)
        return self.tensors[weight].float().flatten(1) @ self.tensors[vector].float()

    def count(self, module: str) -> int:
        """How many numbered parts a module has."""
        below = [name.split(".") for name in self.tensors if name.startswith(f"{module}.")]
        return len({parts[1] for parts in below if len(parts) > 1})

    def has(self, module: str) -> bool:
        return any(f"{name}.".startswith(f"{module}.") for name in self.tensors)

    def layer(self, ours: str, theirs: str) -> dict[str, str]:
        return convolved(ours, f"{self.prefix}.{theirs}")


@dataclass(frozen=True)
class HeadFound:
    """A head here: options, names (ours, theirs), tensors that change."""

    head: str
    options: Mapping[str, Any]
    names: Mapping[str, str]
    changed: Mapping[str, Change] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)  # theirs, that are in what `changed` makes


def activation(theirs: Theirs, allowed: tuple[str, ...] = (RELU,)) -> str:
    """That behind every batch norm of the head. Raises `ImportedError` for others."""
    given = theirs.config.take("act_cfg", {"type": "ReLU"})
    stated: Any = UNREADABLE
    if isinstance(given, Mapping):
        part = Part(f"{theirs.prefix}.act_cfg", given)
        kind = part.take("type", "ReLU")
        part.need("inplace", (True, False), True)
        if kind == "LeakyReLU":
            part.need("negative_slope", (0.01,), 0.01)
        part.refuse_rest(())
        stated = {"ReLU": RELU, "LeakyReLU": LEAKY}.get(kind, kind)
    found = str(theirs.facts.of("activation", stated, RELU))
    if found not in allowed:
        raise ImportedError(
            f"import: {theirs.prefix} has the activation {found}; with this head "
            f"{' or '.join(allowed)} can be taken over"
        )
    return found


def convolutions(theirs: Theirs) -> dict[str, Any]:
    """Options of an FCN. Their dilation is 1 in every published one."""
    config = theirs.config
    config.take("kernel_size")
    config.need("dilation", (1,), 1)
    config.take("num_convs")
    config.take("concat_input")
    count = theirs.count("convs")
    if not count:
        raise ImportedError(f"import: {theirs.prefix} classifies without any convolution before it")
    shape = theirs.tensors["convs.0.conv.weight"].shape
    kernel = {} if shape[-1] == 3 else {"kernel": shape[-1]}
    return {"convolutions": count, "concat_input": theirs.has("conv_cat"), **kernel}


def fcn(theirs: Theirs) -> HeadFound:
    options = convolutions(theirs)
    activation(theirs)
    inner = "head.context.convolutions" if options["concat_input"] else "head.context"
    names: dict[str, str] = {}
    for index in range(options["convolutions"]):
        names |= theirs.layer(f"{inner}.{index}", f"convs.{index}")
    names |= theirs.layer("head.context.fuse.fuse", "conv_cat")
    width = theirs.rows("convs.0.conv.weight")
    return HeadFound("fcn", {"width": width, **options}, names)


def _ppm(theirs: Theirs) -> HeadFound:
    activation(theirs)
    bins = theirs.config.fact(theirs.facts, "bins", "pool_scales", (1, 2, 3, 6), (1, 2, 3, 6))
    names = theirs.layer("head.context.fuse", "bottleneck")
    for index in range(len(bins)):
        names |= theirs.layer(f"head.context.branches.{index}.transform", f"psp_modules.{index}.1")
    options = {
        "bins": list(bins),
        "width": theirs.rows("bottleneck.conv.weight"),
        "pool_width": theirs.rows("psp_modules.0.1.conv.weight"),
    }
    return HeadFound("ppm", options, names)


def _aspp(theirs: Theirs) -> HeadFound:
    dilations, found = atrous_pyramid(theirs, "ASPPHead", "aspp", "head.context")
    names = dict(found.names)
    for index in range(len(dilations)):
        names |= theirs.layer(f"head.context.atrous.{index}", f"aspp_modules.{index + 1}")
    return replace(found, names=names)


def atrous_pyramid(
    theirs: Theirs, kind: str, head: str, ours: str
) -> tuple[Sequence[int], HeadFound]:
    """Dilations, and what `head` has of a pyramid below `ours`, but for its atrous branches.

    Raises `ImportedError` for dilations without a 1x1 convolution in front.
    """
    activation(theirs)
    usual = (1, 12, 24, 36)
    dilations = theirs.config.fact(theirs.facts, "dilations", "dilations", (1, 6, 12, 18), usual)
    if dilations[0] != 1 or 1 in dilations[1:]:
        raise ImportedError(
            f"import: {kind} has dilations {dilations}: 1 in front of larger ones can be taken over"
        )
    width = theirs.rows("bottleneck.conv.weight")
    names = {
        **theirs.layer(f"{ours}.pixel", "aspp_modules.0"),
        **theirs.layer(f"{ours}.image.transform", "image_pool.1"),
        **theirs.layer(f"{ours}.fuse", "bottleneck"),
    }
    options = {"dilations": list(dilations[1:]), "width": width, "fuse_kernel": 3}

    def image_last(weight: Tensor) -> Tensor:
        return weight.roll(-width, dims=1)

    return dilations[1:], HeadFound(head, options, names, {f"{ours}.fuse.0.weight": image_last})


def _encnet(theirs: Theirs) -> HeadFound:
    """In the authors' form; the scale is stored with a minus."""
    activation(theirs)
    lateral = theirs.has("lateral_convs")
    for key in ("num_codes", "use_se_loss", "add_lateral"):
        theirs.config.take(key)
    encoder, se_loss = "head.context.encoder", theirs.has("se_layer")
    names = {
        **theirs.layer(f"{encoder}.before", "enc_module.encoding_project"),
        f"{encoder}.encoding": f"{theirs.prefix}.enc_module.encoding.0",
        f"{encoder}.norm.0": f"{theirs.prefix}.enc_module.encoding.1.bn"
        if theirs.has("enc_module.encoding.1.bn")
        else f"{theirs.prefix}.enc_module.encoding.1",
        "head.context.gate": f"{theirs.prefix}.enc_module.fc.0",
        "head.presence": f"{theirs.prefix}.se_layer",
    }
    if lateral:
        names |= theirs.layer(f"{encoder}.reduce.deepest", "bottleneck")
        names |= theirs.layer(f"{encoder}.reduce.fuse", "fusion")
        for index in range(2):
            names |= theirs.layer(f"{encoder}.reduce.laterals.{index}", f"lateral_convs.{index}")
    else:
        names |= theirs.layer(f"{encoder}.reduce", "bottleneck")
    options = {
        "width": theirs.rows("bottleneck.conv.weight"),
        "codewords": theirs.rows("enc_module.encoding.0.codewords"),
        "release": "authors",
        "se_loss": se_loss,
        "lateral": lateral,
    }
    return HeadFound("encnet", options, names, {f"{encoder}.encoding.scale": torch.neg})


def _danet(theirs: Theirs) -> HeadFound:
    activation(theirs)
    theirs.config.take("pam_channels")
    names: dict[str, str] = {}
    for branch, other in (("position", "pam"), ("channel", "cam")):
        ours = f"head.context.branches.{branch}"
        names |= theirs.layer(f"{ours}.reduce", f"{other}_in_conv")
        names |= theirs.layer(f"{ours}.refine", f"{other}_out_conv")
        names[f"{ours}.attention.gate"] = f"{theirs.prefix}.{other}.gamma.scale"
        names[f"head.branch_classifiers.{branch}.1"] = f"{theirs.prefix}.{other}_conv_seg"
    for part in ("query", "key", "value"):
        ours = f"head.context.branches.position.attention.{part}"
        names[ours] = f"{theirs.prefix}.pam.{part}_project"
    options = {
        "width": theirs.rows("pam_in_conv.conv.weight"),
        "key_channels": theirs.rows("pam.query_project.weight"),
    }
    return HeadFound("danet", options, names)


def _ccnet(theirs: Theirs) -> HeadFound:
    if convolutions(theirs) != {"convolutions": 2, "concat_input": True}:
        raise ImportedError("import: CCHead without concat_input has no counterpart here")
    leaky = activation(theirs, (RELU, LEAKY)) == LEAKY
    recurrence = theirs.config.fact(theirs.facts, "recurrence", "recurrence", 2, 2)
    names = {
        **theirs.layer("head.context.reduce", "convs.0"),
        **theirs.layer("head.context.refine", "convs.1"),
        **theirs.layer("head.context.fuse.fuse", "conv_cat"),
        "head.context.attention.gate": f"{theirs.prefix}.cca.gamma.scale",
    }
    for part in ("query", "key", "value"):
        names[f"head.context.attention.{part}"] = f"{theirs.prefix}.cca.{part}_conv"
    options = {
        "width": theirs.rows("convs.0.conv.weight"),
        "key_channels": theirs.rows("cca.query_conv.weight"),
        "recurrence": recurrence,
        "release": "authors" if leaky else "paper",
    }
    return HeadFound("ccnet", options, names)


def _isa(theirs: Theirs) -> HeadFound:
    """Their values have a bias b, ours none. Weights sum to 1, so that what is gathered has b more,
    and U b before the batch norm behind U: its mean is as much less here.
    """
    activation(theirs)
    theirs.config.take("isa_channels")
    factors = theirs.config.fact(theirs.facts, "down_factor", "down_factor", (8, 8), (8, 8))
    if len(set(factors)) != 1:
        raise ImportedError(f"import: ISAHead has down_factor {factors}: equal ones are known")
    names = {
        **theirs.layer("head.context.reduce", "in_conv"),
        **theirs.layer("head.context.fuse.fuse", "out_conv"),
    }
    changed: dict[str, Change] = {}
    folded = []
    for mine, other in (("far", "global"), ("near", "local")):
        ours, relation = f"head.context.attention.{mine}", f"{other}_relation"
        for part in ("query", "key"):
            for index in range(2):
                layers = theirs.layer(
                    f"{ours}.{part}.{index}", f"{relation}.{part}_project.{index}"
                )
                names |= layers
        names[f"{ours}.value"] = f"{theirs.prefix}.{relation}.value_project"
        names |= theirs.layer(f"{ours}.output", f"{relation}.output_project")
        bias = f"{relation}.value_project.bias"
        if bias in theirs.tensors:
            folded.append(f"{theirs.prefix}.{bias}")
            shift = theirs.product(f"{relation}.output_project.conv.weight", bias)
            changed[f"{ours}.output.1.running_mean"] = partial(torch.sub, other=shift)
    options = {
        "width": theirs.rows("in_conv.conv.weight"),
        "key_channels": theirs.rows("global_relation.query_project.0.conv.weight"),
        "down_factor": factors[0],
    }
    return HeadFound("isa", options, names, changed, folded)


def ocr(theirs: Theirs) -> HeadFound:
    activation(theirs)
    theirs.config.take("ocr_channels")
    theirs.config.need("scale", (1,), 1)
    block = "object_context_block"
    names = {
        **theirs.layer("head.context.reduce", "bottleneck"),
        **theirs.layer("head.context.fuse.fuse", f"{block}.bottleneck"),
        **theirs.layer("head.context.regions.delta", f"{block}.value_project"),
        **theirs.layer("head.context.regions.rho", f"{block}.out_project"),
    }
    for mine, other in (("phi", "query"), ("psi", "key")):
        for index in range(2):
            ours = f"head.context.regions.relation.{mine}.{index}"
            names |= theirs.layer(ours, f"{block}.{other}_project.{index}")
    options = {
        "width": theirs.rows("bottleneck.conv.weight"),
        "key_channels": theirs.rows(f"{block}.value_project.conv.weight"),
        "transforms": 2,
    }
    return HeadFound("ocr", options, names)


HEADS: dict[str, Callable[[Theirs], HeadFound]] = {
    "FCNHead": fcn,
    "PSPHead": _ppm,
    "ASPPHead": _aspp,
    "EncHead": _encnet,
    "DAHead": _danet,
    "CCHead": _ccnet,
    "ISAHead": _isa,
}
