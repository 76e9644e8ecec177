"""From configuration to objects: the one place where a protocol and a head become a model."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from contextbench.config.files import ConfigError, nearest
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import BackboneConfig, Protocol, weights_file
from contextbench.models.backbone import Backbone, OtherInputs, build_backbone
from contextbench.models.heads import head_class
from contextbench.models.hrnet import HRNETS, build_hrnet
from contextbench.models.segmenter import Segmenter
from contextbench.models.timm_backbone import PREFIX, build_timm_backbone
from contextbench.system.errors import UserError
from heads import Channels, ContextHead, build_head
from heads.contract import Broken, check_output


def build_model(
    protocol: Protocol,
    head: HeadConfig,
    num_classes: int,
    *,
    seed: int,
    pretrained: bool = True,
    backbone: Backbone | None = None,
) -> Segmenter:
    """A backbone and a head with initial weights that `seed` determines.

    Backbone and head are seeded apart, so that all heads of a comparison start from the identical
    backbone. `pretrained=False` skips the protocol's ImageNet weights: for costs, and for models
    whose weights are loaded next. `backbone` is that of another model of the protocol and seed, to
    be shared. Raises `ConfigError` for unknown backbones, options and weights.
    """
    config = protocol.backbone
    if not pretrained:
        config = config.model_copy(update={"weights": None})
    if backbone is None:
        torch.manual_seed(seed)
        backbone = _backbone(config, align_corners=protocol.align_corners)
    torch.manual_seed(seed)
    options = head_options(protocol, head)
    module = build_configured(head, backbone.channels, num_classes, options)
    return Segmenter(
        backbone,
        module,
        frozen=protocol.shared_backbone == "frozen",
        align_corners=protocol.align_corners,
    )


def check_weights(protocol: Protocol) -> str | None:
    """What the backbone's weights are (`Backbone.origin`), looked at before there is work to lose.

    None where they are random. Published weights are downloaded, if they are not here yet. Raises
    `ConfigError` for a backbone that cannot be built and for weights that are not its own.
    """
    config = protocol.backbone
    looked_at = config.weights is None or weights_file(config.weights) is not None
    with torch.device("meta" if looked_at else "cpu"):
        return _backbone(config).origin


def check_heads(protocol: Protocol, heads: Sequence[HeadConfig], num_classes: int) -> None:
    """Build every head without data, and look at what plug-ins give.

    Raises `ConfigError` for the first one that cannot be built, or whose output is not a head's.
    """
    with torch.device("meta"):
        for head in heads:
            model = build_model(protocol, head, num_classes, seed=0, pretrained=False)
            loss_weights(model, head)
            if head.plugin is not None:
                _check_plugin(head, model, num_classes)


def _check_plugin(head: HeadConfig, model: Segmenter, num_classes: int) -> None:
    """Shapes and terms of a pass in training, of tensors without values."""
    try:
        check_output(model.head, model.backbone.channels, num_classes)
    except Broken as error:
        raise ConfigError(f"head {head.name!r}, {head.plugin}: {error}") from error
    except Exception as error:  # whatever the code of others raises
        raise ConfigError(
            f"head {head.name!r}, {head.plugin}: its forward pass raises "
            f"{type(error).__name__}: {error}"
        ) from error


def build_configured(
    head: HeadConfig, channels: Channels, num_classes: int, options: dict[str, Any]
) -> ContextHead:
    """The head that a file names, with `options`. Raises `ConfigError` naming the file."""
    try:
        return build_head(head_class(head), channels, num_classes, **options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"head file {head.name!r}: {error}") from error
    except Exception as error:
        if head.plugin is None:
            raise
        raise ConfigError(
            f"head {head.name!r}, {head.plugin}: building it raises {type(error).__name__}: {error}"
        ) from error


def head_options(protocol: Protocol, head: HeadConfig) -> dict[str, Any]:
    """The head's options with every channel count multiplied by `head_width_factor`.

    Channel counts are the options named `width`, `*_width` and `*_channels`; those left at None
    follow the backbone by themselves. Heads that resize maps do it as the protocol says.
    """
    parameters = inspect.signature(head_class(head)).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    aligned = {"align_corners": True} if protocol.align_corners else {}
    given = {**{name: each for name, each in aligned.items() if name in options}, **head.options}
    resolved = {**options, **given}
    if protocol.head_width_factor == 1.0:
        return given
    scaled = {
        name: max(1, round(value * protocol.head_width_factor))
        for name, value in resolved.items()
        if isinstance(value, int) and name.endswith(("width", "_channels"))
    }
    return {**given, **scaled}


def loss_weights(model: Segmenter, head: HeadConfig) -> dict[str, float]:
    """The head's published weights, overridden by its file. Raises `ConfigError` for others."""
    published = dict(model.head.loss_weights)
    for name in head.loss_weights:
        if name not in published:
            raise ConfigError(
                f"head file {head.name!r}: loss_weights.{name}: the head has no such loss term; "
                f"{nearest(name, published)}"
            )
    return {**published, **head.loss_weights}


def _backbone(config: BackboneConfig, *, align_corners: bool = False) -> Backbone:
    built = _network(config, align_corners)
    if config.inputs is not None:
        built.other_inputs = OtherInputs(config.inputs)
    return built


def _network(config: BackboneConfig, align_corners: bool) -> Backbone:
    try:
        if config.name in HRNETS:
            _refuse_resnet_options(config)
            return build_hrnet(
                config.name,
                output_stride=config.output_stride,
                weights=config.weights,
                align_corners=align_corners,
                scaled_exchange=config.scaled_exchange,
            )
        if config.name.startswith(PREFIX):
            _refuse_resnet_options(config)
            return build_timm_backbone(
                config.name, output_stride=config.output_stride, weights=config.weights
            )
        _refuse_hrnet_options(config)
        return build_backbone(
            config.name,
            stem=config.stem,
            output_stride=config.output_stride,
            multi_grid=config.multi_grid,
            width=config.width,
            basic_dilation=config.basic_dilation,
            entry_dilation=config.entry_dilation,
            ceil_pool=config.ceil_pool,
            weights=config.weights,
        )
    except ValueError as error:
        raise ConfigError(f"backbone: {error}") from error


def _refuse_hrnet_options(config: BackboneConfig) -> None:
    if config.scaled_exchange:
        raise ValueError(f"scaled_exchange is of HRNet, and {config.name} is none")


def _refuse_resnet_options(config: BackboneConfig) -> None:
    options = ("stem", "multi_grid", "width", "basic_dilation", "entry_dilation", "ceil_pool")
    for option in options:
        default, given = BackboneConfig.model_fields[option].default, getattr(config, option)
        if given != default:
            raise ValueError(
                f"{option} {given}: {config.name} has its own; leave backbone.{option} out "
                f"or at {default}"
            )
