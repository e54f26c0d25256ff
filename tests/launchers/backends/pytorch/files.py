"""TorchScript files for a version folder."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")


class SumAndDifference(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + b, a - b


class PickyDoubler(torch.nn.Module):
    """Doubles, and refuses what is negative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert bool(x.min() >= 0), "negative"
        return x * 2


def publish(repository: Path, name: str, module: torch.nn.Module, config: str) -> None:
    """Version 1 of a model; ``config`` lacks only name, backend and instance group."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    torch.jit.script(module).save(str(folder / "model.pt"))
    (repository / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "pytorch"\ninstance_group [{{ count: 1 }}]\n{config}\n'
    )
