"""Fingerprints of datasets that are made of files: one digest for each thing they depend on.

    names:2f91c03c51d0a7e4,images:...,masks:...,labels:...,sampling:...

A record holds those of the training and the evaluated split, joined by a slash, and of the watched
one where that chooses the weights, so that a message can say what differs. Datasets that are drawn
have a single digest. Does not need torch.
"""

import hashlib
from collections.abc import Iterable, Mapping

_DIGITS = 16  # hexadecimal, 64 bits: two datasets of one name are equal by chance in 1 of 10^19
_SPLITS = ("train", "evaluate", "watch")


def digest(parts: Iterable[bytes]) -> str:
    """Of byte strings one after another; those of one meaning have one length."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:_DIGITS]


def joined(parts: Mapping[str, str]) -> str:
    """The fingerprint of named digests."""
    return ",".join(f"{name}:{value}" for name, value in parts.items())


def named(fingerprint: str) -> str | dict[str, str]:
    """To be shown and compared: digests by what they are of, or the start of a single one."""
    splits = zip(_SPLITS, fingerprint.split("/"), strict=False)
    parts = {f"{n} of {split}": v for split, text in splits for n, v in _parts(text).items()}
    return parts or fingerprint[:12]


def differing(recorded: str, now: str) -> list[str]:
    """What two fingerprints of a record differ in, such as "images of train".

    Empty where they are equal, or do not say of what they are made.
    """
    pairs = zip(recorded.split("/"), now.split("/"), strict=False)
    return [
        f"{name} of {split}"
        for split, (one, other) in zip(_SPLITS, pairs, strict=False)
        for name in _different_parts(_parts(one), _parts(other))
    ]


def same_images(one: str, other: str) -> bool:
    """Whether two splits with these fingerprints have the same images, whatever they are called."""
    images = _parts(one).get("images")
    return one == other or (images is not None and images == _parts(other).get("images"))


def _parts(fingerprint: str) -> dict[str, str]:
    pairs = [part.partition(":") for part in fingerprint.split(",")]
    return {name: value for name, separator, value in pairs if separator}


def _different_parts(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    if not one or not other:
        return []
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]
