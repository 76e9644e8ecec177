"""A checkpoint of another code base as it lies in its file: tensors, configuration, classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from contextbench.interop.literals import LiteralsError, read_assignments
from contextbench.models.pretrained import WeightsError, listed, read_content, states_in
from contextbench.system.errors import UserError
from contextbench.system.files import digest_of

REMEDY = (
    "`contextbench import --convert-help` prints how to write what is needed to another file, "
    "where this one was made"
)
CONVERT_HELP = """\
A checkpoint of mmsegmentation that was written during training holds objects of mmengine, and one
of torchvision's reference scripts holds its arguments. Reading these would run code of the file,
so it is refused. Where the file was made, and is trusted, write its tensors and texts to another:

    import torch

    stored = torch.load("latest.pth", map_location="cpu", weights_only=False)
    meta = stored.get("meta", {})
    names = ("cfg", "config", "CLASSES", "PALETTE")
    kept = {name: meta[name] for name in names if name in meta}
    if "dataset_meta" in meta:
        kept["dataset_meta"] = {"classes": tuple(meta["dataset_meta"]["classes"])}
    tensors = stored.get("state_dict", stored.get("model", stored))
    torch.save({"meta": kept, "state_dict": dict(tensors)}, "plain.pth")

and import plain.pth. Of a model in memory, torch.save(model.state_dict(), "plain.pth") does.
"""
PARALLEL = "module."  # which DataParallel and DistributedDataParallel put before every name


class ImportedError(UserError, ValueError):
    """A checkpoint that cannot be taken over. The message says what it has and what is known."""


@dataclass(frozen=True)
class CheckpointFile:
    """Tensors by name; `config` are the names of its configuration, None where it has none."""

    path: Path
    digest: str  # SHA-256
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    def without(self, prefix: str) -> "CheckpointFile":
        """The same with names of which none begins with `prefix`."""
        names = {name.removeprefix(prefix): each for name, each in self.tensors.items()}
        return replace(self, tensors=names)

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names begin with `prefix`, without it."""
        found = self.tensors.items()
        return {name.removeprefix(prefix): each for name, each in found if name.startswith(prefix)}


def read_checkpoint(path: Path) -> CheckpointFile:
    """Raises `ImportedError` for a file that is missing, damaged, needs code, or has no tensors."""
    if not path.is_file():
        raise ImportedError(f"no such file: {path}")
    try:
        content = read_content(path, "import", REMEDY)
        digest = digest_of(path)
    except WeightsError as error:
        raise ImportedError(str(error)) from error
    states = states_in(content)
    if not states:
        raise ImportedError(f"import: {path} holds no state dict (names to tensors)")
    tensors, notes = states[0].tensors, []
    if len(states) > 1:
        others = [".".join(each.inside) or "the top" for each in states[1:]]
        taken = ".".join(states[0].inside) or "the top"
        notes.append(f"The file has several state dicts; taken: {taken}; not: {listed(others)}")
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): each for name, each in tensors.items()}
    meta = content.get("meta") if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    config, faults = _config(meta)
    if config is None and isinstance(content, Mapping):
        settings = content.get("config_dict")  # of openseg.pytorch, which is no text
        config = settings if isinstance(settings, Mapping) else None
    return CheckpointFile(path, digest, tensors, config, _classes(meta), [*notes, *faults])


def _config(meta: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, list[str]]:
    """mmengine stores the text as `cfg`, mmcv before it as `config`."""
    text = meta.get("cfg", meta.get("config"))
    if not isinstance(text, str):
        return None, []
    try:
        return read_assignments(text), []
    except LiteralsError as error:
        return None, [f"The configuration in the file was not readable ({error})"]


def _classes(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    about = meta.get("dataset_meta")
    found = about.get("classes") if isinstance(about, Mapping) else meta.get("CLASSES")
    if isinstance(found, list | tuple) and found and all(isinstance(each, str) for each in found):
        return tuple(found)
    return None
