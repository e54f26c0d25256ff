"""An exported program as a module with a flat signature.

Imports torch, so it is imported only where a program is loaded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree


# torch ships no types that mypy is allowed to follow here, hence a base class of type Any.
class ProgramModule(torch.nn.Module):  # type: ignore[misc]
    """Tensors in and tensors out, in order, however the program nests and names them."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.program = program.module()
        self._structure = program.call_spec.in_spec

    def forward(self, *inputs: Any) -> Any:
        """Its outputs, flattened."""
        positional, named = pytree.tree_unflatten(list(inputs), self._structure)
        return tuple(pytree.tree_leaves(self.program(*positional, **named)))

    def train(self, mode: bool = True) -> ProgramModule:
        """Nothing: a program does what it did when it was exported."""
        return self
