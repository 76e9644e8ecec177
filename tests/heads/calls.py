"""Passes of heads, ours and those of others, as they are timed."""

import torch
from torch import Tensor, nn

from contextbench.measure.latency import Call
from heads import Features


def forward(head: nn.Module, stages: Features) -> Call:
    def call() -> None:
        with torch.inference_mode():
            head(stages)

    return call


def forward_backward(head: nn.Module, stages: Features) -> Call:
    """Batch norm as in evaluation: a branch that is pooled to one cell has one image only."""

    def call() -> None:
        output = head(Features(*(stage.detach().requires_grad_() for stage in stages)))
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        logits.backward(torch.ones_like(logits))
        head.zero_grad(set_to_none=True)

    return call
