"""Passes of heads, ours and those of others, as they are timed."""

import torch
from torch import Tensor, nn

from contextbench.measure.latency import Call
from contextbench.models.precision import Precision
from heads import Features

CPU = torch.device("cpu")
FLOAT32 = Precision()


def forward(head: nn.Module, stages: Features, precision: Precision = FLOAT32) -> Call:
    def call() -> None:
        with torch.inference_mode(), precision.autocast(CPU):
            head(stages)

    return call


def forward_backward(head: nn.Module, stages: Features, precision: Precision = FLOAT32) -> Call:
    """Batch norm as in evaluation: a branch that is pooled to one cell has one image only."""

    def call() -> None:
        with precision.autocast(CPU):
            output = head(Features(*(stage.detach().requires_grad_() for stage in stages)))
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        logits.backward(torch.ones_like(logits))
        head.zero_grad(set_to_none=True)

    return call
