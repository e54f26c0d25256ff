"""TorchScript files: modules that carry their own code, in a language of PyTorch's.

Reading one runs no Python, only PyTorch's operators once the module is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repo_builder.causes import root_cause
from repo_builder.sources.base import (
    Checkpoint,
    CheckpointSource,
    Digest,
    InputField,
    SourceContext,
)
from repo_builder.sources.location import artifact_path, artifact_state
from tritonfleet.errors import SourceUnavailable
from tritonfleet.spec.sources import TorchScriptSource as TorchScriptSpec


class TorchScriptSource(CheckpointSource[TorchScriptSpec]):
    """A module saved by torch.jit.save."""

    def state(
        self, spec: TorchScriptSpec, context: SourceContext, digest: Digest
    ) -> dict[str, Any] | None:
        """The file's digest."""
        return artifact_state(spec.path, context, digest)

    def fetch(self, spec: TorchScriptSpec, context: SourceContext) -> Path | None:
        """The file."""
        return artifact_path(spec.path, context)

    def load(
        self, spec: TorchScriptSpec, context: SourceContext, fetched: Path | None
    ) -> Checkpoint:
        """The module, on the CPU."""
        import torch

        path = fetched or artifact_path(spec.path, context)
        try:
            module = torch.jit.load(str(path), map_location="cpu").eval()
        # Damaged files, and classes that nobody registered, are RuntimeErrors and ValueErrors.
        except (RuntimeError, ValueError, OSError) as error:
            cause = f"{path} cannot be loaded as TorchScript: {root_cause(error)}"
            hint = (
                "It must come from torch.jit.save. For a state_dict use kind 'torch_module', for a "
                ".pt2 kind 'exported_program'."
            )
            raise SourceUnavailable(context.model, cause, hint) from error
        inputs = {name: InputField(each.dtype, each.shape) for name, each in spec.inputs.items()}
        return Checkpoint(module, inputs, spec.outputs)
