"""Checkpoints of runs: what they state of their run, and the models in them."""

from pathlib import Path

import torch

from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.models.build import build_model
from contextbench.models.checkpoint import CheckpointError, load_checkpoint
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter
from contextbench.records.runs import CHECKPOINT, damage, read_run
from contextbench.runs.cells import Cell
from contextbench.training.execution import Execution


def load_trained(
    folder: Path,
    protocol: Protocol,
    head: HeadConfig,
    num_classes: int,
    precision: Precision,
    device: torch.device,
) -> Segmenter:
    """The trained model in a cell's folder, in evaluation mode.

    Raises `CheckpointError` for weights that are damaged, of another model, or of another run than
    the record beside them, and `RecordError` where that cannot be read.
    """
    model = build_model(protocol, head, num_classes, seed=0, pretrained=False)
    about, path = description(protocol, head, num_classes), folder / "record.json"
    record = read_run(path) if path.exists() else None
    own = own_run(record.head_name, record.seed, record.fingerprint) if record else {}
    load_checkpoint(folder / CHECKPOINT, model, about, own)
    damaged = damage(folder, record, CHECKPOINT) if record else None
    if damaged is not None:
        raise CheckpointError(damaged)
    model.to(device).to(memory_format=precision.torch_memory_format)
    return model.eval()


def trained_model(cell: Cell, execution: Execution) -> Segmenter:
    """The model that a cell left. Raises as `load_trained` does."""
    setting = cell.setting
    return load_trained(
        cell.folder(execution.out),
        setting.protocol,
        cell.head,
        setting.num_classes,
        cell.precision,
        execution.device,
    )


def description(protocol: Protocol, head: HeadConfig, num_classes: int) -> dict[str, str]:
    """What a checkpoint states about its model, and what is compared when it is loaded."""
    return {
        "head": head.head,
        "num_classes": str(num_classes),
        "backbone": protocol.backbone.name,
    }


def own_run(head: str, seed: int, fingerprint: str) -> dict[str, str]:
    """What a checkpoint states about the run that it belongs to."""
    return {"run": head, "seed": str(seed), "fingerprint": fingerprint}
