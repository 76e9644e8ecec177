"""Which images of a split are independent of each other. Declared by the dataset, no torch."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from contextbench.system.errors import UserError

LONGEST_PATTERN = 200  # characters
_SHOWN = 5  # names in a message


class SamplingError(UserError, ValueError):
    """Images that a declared pattern does not match."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
    return pattern


Pattern = Annotated[str, Field(min_length=1, max_length=LONGEST_PATTERN), AfterValidator(_compiles)]


class Sampling(BaseModel):
    """How images belong together; neither field set: each is independent of all others.

    `frames: ordered`: in order of their names they are frames of videos, and neighbours are alike.
    `cluster`: a regular expression that is searched in the name of every image. Images with the
    same first group, or without groups the same match, belong together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: Literal["ordered"] | None = None
    cluster: Pattern | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "Sampling":
        if self.frames is not None and self.cluster is not None:
            raise ValueError("either 'frames' or 'cluster' can be declared")
        return self

    def clusters(self, names: Sequence[str]) -> list[int] | None:
        """The cluster of each image, 0 .. C - 1 in order of appearance; None without a pattern.

        Raises `SamplingError`, which names the images that the pattern does not match.
        """
        if self.cluster is None:
            return None
        matches = [re.search(self.cluster, name) for name in names]
        lost = [name for name, match in zip(names, matches, strict=True) if match is None]
        if lost:
            more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
            raise SamplingError(
                f"cluster {self.cluster!r} does not match {', '.join(lost[:_SHOWN])}{more}"
            )
        keys = [match[1] if match.re.groups else match[0] for match in matches if match]
        numbers: dict[str, int] = {}
        return [numbers.setdefault(key, len(numbers)) for key in keys]


INDEPENDENT = Sampling()
