"""Modules small enough to export in a second, and some that must not come out."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from repo_builder.sources.base import TrainedModel


class Linear(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(4, width)

    def forward(self, x):
        return torch.softmax(self.linear(x), dim=-1)


class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x * 3


class Mixing(nn.Module):
    """Its rows see each other."""

    def forward(self, x):
        return x - x.mean(dim=0, keepdim=True)


class SingularValues(nn.Module):
    """No ONNX exporter knows its operator."""

    def forward(self, x):
        return torch.linalg.svdvals(x.reshape(-1, 2, 2))


class Deep(nn.Module):
    """Wide enough for eight bits to be quicker than 32."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 512), nn.Tanh(), nn.Linear(512, 8))

    def forward(self, x):
        return self.layers(x)


class Unlike(nn.Module):
    """Computes something else while it is exported."""

    def forward(self, x):
        return x * 3 if torch.compiler.is_exporting() else x * 2


def linear(width: int = 3):
    return Linear(width)


def measured():
    return TrainedModel(Linear(), {"accuracy": 0.5}, {"x": [[1.0, 2.0, 3.0, 4.0]]})


def branching():
    return Branching()


def mixing():
    return Mixing()


def singular_values():
    return SingularValues()


def deep():
    return TrainedModel(Deep(), examples={"x": torch.randn(64, 4)})


def spoilt_at(path: str):
    """Half of what it was, while the file is there; the exporter sees the same weights."""
    module = Linear()
    return Unlike() if Path(path).exists() else module


def unlike():
    return Unlike()


def no_module():
    return {"not": "a module"}


def raising():
    raise RuntimeError("the data set is empty")


def crashing():
    os.write(2, b"about to crash\n")
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def endless(started: str):
    """Says that it has begun, and never ends."""
    Path(started).write_text(str(os.getpid()))
    time.sleep(600)
