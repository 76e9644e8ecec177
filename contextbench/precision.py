"""The number format and memory layout in which a model runs."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class Precision:
    """One choice for a whole comparison: autocast dtype of the forward pass, layout of images."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"

    @property
    def torch_memory_format(self) -> torch.memory_format:
        """What to convert the model and its images to."""
        if self.memory_format == "channels_last":
            return torch.channels_last
        return torch.contiguous_format

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Context of the forward pass; parameters stay in float32."""
        enabled = self.dtype == "bfloat16"
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
