"""Where two nested mappings differ."""

from collections.abc import Mapping
from typing import Any

NOT_SET = "(not set)"


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two nested mappings differ, with both values."""
    one, two = _flat(left), _flat(right)
    pairs = {key: (one.get(key, NOT_SET), two.get(key, NOT_SET)) for key in {**one, **two}}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b}


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
