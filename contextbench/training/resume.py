"""The state that an unfinished run goes on from: whole to the bit, and of this run alone.

`resume.pt` holds what `torch.save` makes of a mapping, sealed with a digest. A file that is not
what was written is damaged, and set aside; one of another run is work that somebody may want, and
refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from contextbench.config.differences import differences
from contextbench.config.files import ConfigError
from contextbench.config.fingerprints import differing
from contextbench.records.runs import Leg
from contextbench.records.watched import Watched
from contextbench.system.files import is_sealed, quarantine, write_sealed

NAME = "resume.pt"

Entry = dict[str, float]
State = Mapping[str, Any]
Identity = Mapping[str, Any]
"""What two runs share that compute the same; its `EXPLANATION` is for messages, not compared."""

EXPLANATION = "protocol"  # whose fingerprint is compared instead
NOT_COMPARED = ("protocol.name", "protocol.expected", "protocol.dataset.root")
DIGESTS = ("fingerprint", "dataset_fingerprint", "weights_digest", "init_digest")


class DamagedError(ValueError):
    """A state that is not what was written. The message says why."""


@dataclass
class Progress:
    """Where training stands: completed steps, their losses, and seconds spent over all restarts.

    `wait_seconds` are those of `seconds` in which the device waited for data (see `BatchWait`);
    `legs` are the starts of the program that did the steps, but for the one that is at it.
    `watched` are the scored steps, whose `watch_seconds` are in no other, and `kept` is that of
    them whose weights are kept.
    """

    step: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    history: list[Entry] = field(default_factory=list)
    legs: list[Leg] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    watch_seconds: float = 0.0
    kept: Watched | None = None


def write_state(path: Path, identity: Identity, progress: Progress, content: State) -> None:
    """Store `content` and what it belongs to. Raises `OutputError`."""
    state = {
        **content,
        "identity": dict(identity),
        "step": progress.step,
        "seconds": progress.seconds,
        "wait_seconds": progress.wait_seconds,
        "history": progress.history,
        "legs": [leg.model_dump(mode="json") for leg in progress.legs],
        "watched": [entry.model_dump(mode="json") for entry in progress.watched],
        "watch_seconds": progress.watch_seconds,
        "kept": None if progress.kept is None else progress.kept.model_dump(mode="json"),
    }
    write_sealed(path, lambda file: torch.save(state, file))


def read_state(path: Path, *, tensors: bool = True) -> State | None:
    """The stored state, None where there is no file; without `tensors` they are not read.

    Raises `DamagedError` for a file that is not what was written, and `ConfigError` for one of a
    version that kept no digest.
    """
    if not path.exists():
        return None
    try:
        if not is_sealed(path):
            _refuse_unsealed(path)
        state = torch.load(path, map_location="cpu", mmap=not tensors, weights_only=True)
    except OSError as error:
        raise DamagedError(f"cannot be read: {error.strerror or error}") from error
    if not _is_whole(state):
        raise DamagedError(f"{len(state['history'])} losses do not fit step {state['step']}")
    return dict(state)


def _refuse_unsealed(path: Path) -> None:
    """Raise `ConfigError` for a state of a version that kept no digest, else `DamagedError`."""
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        raise DamagedError("cut off or damaged") from error
    if isinstance(state, dict) and isinstance(state.get("identity"), str):
        raise ConfigError(
            f"{path} was stored by an earlier version of contextbench, which kept no digest in it: "
            "finish that run with that version, choose another --out, or --fresh to start anew"
        )
    raise DamagedError("its digest is not that of its content")


def _is_whole(state: Any) -> bool:
    """Whether the losses are those of the steps that are done."""
    steps = range(1, state["step"] + 1)
    return state["step"] >= 0 and [entry["step"] for entry in state["history"]] == list(steps)


def progress_in(state: State) -> Progress:
    """What a state says of the steps before it; those of before say nothing of watched ones."""
    kept = state.get("kept")
    return Progress(
        step=state["step"],
        seconds=state["seconds"],
        wait_seconds=state["wait_seconds"],
        history=list(state["history"]),
        legs=[Leg.model_validate(leg) for leg in state["legs"]],
        watched=[Watched.model_validate(entry) for entry in state.get("watched", [])],
        watch_seconds=state.get("watch_seconds", 0.0),
        kept=None if kept is None else Watched.model_validate(kept),
    )


def saved_progress(path: Path) -> Progress:
    """How far a resume file shows that a run came, nowhere where it shows nothing."""
    try:
        state = read_state(path, tensors=False)
    except (DamagedError, ConfigError):
        return Progress()
    return Progress() if state is None else progress_in(state)


def usable_state(path: Path, identity: Identity, steps: int) -> State | None:
    """The state of the run of `identity`, which has so many steps, or None.

    A damaged one is set aside. Raises `ConfigError` for that of another run, naming what differs.
    """
    try:
        state = read_state(path)
        if state is not None and state["step"] > steps:
            raise DamagedError(f"it is at step {state['step']} of {steps}")
    except DamagedError as error:
        quarantine(path, f"{error}; training starts anew")
        return None
    if state is not None:
        refuse_other(path, state, identity)
    return state


def refuse_other(path: Path, state: State, identity: Identity) -> None:
    """Raise `ConfigError` unless `state` is of the run of `identity`."""
    if _compared(state["identity"]) == _compared(identity):
        return
    raise ConfigError(
        f"{path.parent} holds an unfinished run of another configuration, at step "
        f"{state['step']}: {named_differences(state['identity'], identity)}. Choose another --out, "
        "or --fresh to replace it"
    )


def named_differences(was: Identity, wanted: Identity) -> str:
    """What differs: keys with both values, and what only a digest tells."""
    different = differences(was, wanted)
    told = [
        f"{key} was {one}, is {other}"
        for key, (one, other) in different.items()
        if key not in DIGESTS and not key.startswith(NOT_COMPARED)
    ]
    if "dataset_fingerprint" in different:
        parts = differing(*map(str, different["dataset_fingerprint"]))
        told.append(f"its data differ{': ' if parts else ''}{', '.join(parts)}")
    if "weights_digest" in different:
        told.append("the content of the file that backbone.weights names differs")
    if "init_digest" in different:
        told.append("the weights that train.init names differ")
    return ", ".join(told) or "the version of the protocol differs"


def _compared(identity: Identity) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key != EXPLANATION}
