"""Dropout with a mask that is cheap on a CPU."""

from __future__ import annotations

import torch
from torch import nn

LEVELS = 1 << 16


class Dropout(nn.Dropout):
    """Inverted dropout (Srivastava et al., JMLR 15, 2014): zero with probability p, else times 1 / (1 - p).

    PyTorch draws the mask on a CPU one Bernoulli number at a time, which took a fifth of a training step.
    Here each 64-bit draw serves four elements. So on a CPU p is rounded to a multiple of 2^-16, and so is the scale.
    The draws come from PyTorch's generator. Other devices, and p below 2^-17, use PyTorch's own code.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the input's shape and dtype. In evaluation mode return the input itself."""
        dropped = round(self.p * LEVELS)
        if not self.training or input.device.type != "cpu" or not 0 < dropped < LEVELS:
            return super().forward(input)
        draws = torch.empty((input.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        uniform = draws.view(torch.int16)[: input.numel()].view(input.shape)
        keep = (uniform >= dropped - LEVELS // 2).to(input.dtype)
        return input * keep.mul_(LEVELS / (LEVELS - dropped))
