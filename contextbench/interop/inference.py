"""How mmsegmentation evaluates a model: read from its configuration, 0.x and 1.x."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

PIPELINES = ("test_dataloader", "test_pipeline", "val_dataloader", "data")  # the first that is read


def inference_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Settings of `EvaluateConfig`; None where the configuration has no test pipeline to read."""
    model = config.get("model")
    pipelines = [config[name] for name in PIPELINES if name in config]
    resize = next((each for pipeline in pipelines for each in _resizes(pipeline)), None)
    if not pipelines or resize is None or not isinstance(model, Mapping):
        return None
    mode = _windows(model.get("test_cfg"))
    size = _size(resize)
    if mode is None or size is None:
        return None
    return {**size, **mode, **_padding(config, model)}


def _resizes(content: Any, scale: Any = None) -> Iterator[dict[str, Any]]:
    """Steps that resize, with the scale of the step around them; before 1.0 it stands there."""
    if isinstance(content, Mapping):
        inner = content.get("img_scale", scale)
        if content.get("type") == "Resize":
            yield {"scale": inner, **content}
        test = content.get("test")  # of `data`, where those of training stand beside it
        for each in [test] if isinstance(test, Mapping) else content.values():
            yield from _resizes(each, inner)
    elif isinstance(content, list | tuple):
        for each in content:
            yield from _resizes(each, scale)


def _size(resize: Mapping[str, Any]) -> dict[str, Any] | None:
    scale = resize.get("scale")
    if not _pair(scale):
        return None
    width, height = scale
    if resize.get("keep_ratio", False) is True:
        return {"short_side": min(scale), "long_side": max(scale)}
    return {"size": [height, width]}


def _windows(test: Any) -> dict[str, Any] | None:
    """Of `test_cfg`, in which sides are height and width."""
    if not isinstance(test, Mapping):
        return None
    if test.get("mode", "whole") == "whole":
        return {"mode": "whole"}
    window, stride = test.get("crop_size"), test.get("stride")
    if test["mode"] != "slide" or not _pair(window) or not _pair(stride):
        return None
    return {"mode": "slide", "window": list(window), "stride": list(stride)}


def _padding(config: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    processor = model.get("data_preprocessor", config.get("data_preprocessor"))
    test = processor.get("test_cfg") if isinstance(processor, Mapping) else None
    divisor = test.get("size_divisor") if isinstance(test, Mapping) else None
    return {"size_divisor": divisor} if isinstance(divisor, int) and divisor > 1 else {}


def _pair(value: Any) -> TypeGuard[Sequence[int]]:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(each, int) and each > 0 for each in value)
    )
