"""Two small tables from medicine. Standardisation is part of the model: clients send raw values."""

from __future__ import annotations

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import train_test_split
from torch import nn

from repo_builder.sources.base import TrainedModel


class Standardised(nn.Module):
    """Raw features in; a multilayer perceptron sees them with mean 0 and deviation 1."""

    def __init__(self, features: torch.Tensor, outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("deviation", features.std(0))
        self.layers = nn.Sequential(
            nn.Linear(features.shape[1], width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, outputs),
        )

    def raw(self, features: torch.Tensor) -> torch.Tensor:
        """The last layer's values."""
        return self.layers((features - self.mean) / self.deviation)


class Diagnosis(Standardised):
    """Two probabilities: malignant, benign."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The probabilities."""
        return torch.softmax(self.raw(features), dim=-1)


class Progression(Standardised):
    """One number: the disease's progression after a year."""

    def __init__(self, features: torch.Tensor, target: torch.Tensor) -> None:
        super().__init__(features, outputs=1, width=16, dropout=0.2)
        self.register_buffer("target_mean", target.mean())
        self.register_buffer("target_deviation", target.std())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The number, in the data set's own unit."""
        return self.raw(features) * self.target_deviation + self.target_mean


def breast_cancer() -> TrainedModel:
    """Trained on four fifths of the tumours, its accuracy taken on the rest."""
    bunch = load_breast_cancer()
    features, unseen, classes, unseen_classes = _split(bunch.data, torch.tensor(bunch.target))
    torch.manual_seed(0)
    model = Diagnosis(features, outputs=2, width=32, dropout=0.2)
    _fit(model, lambda: nn.functional.cross_entropy(model.raw(features), classes))
    with torch.no_grad():
        right = model(unseen).argmax(-1) == unseen_classes
    metrics = {"accuracy": right.float().mean().item()}
    return TrainedModel(model, metrics, {"features": unseen.numpy()})


def diabetes() -> TrainedModel:
    """Trained on four fifths of the patients, its R² taken on the rest."""
    bunch = load_diabetes(scaled=False)
    target = torch.tensor(bunch.target, dtype=torch.float32)
    features, unseen, values, unseen_values = _split(bunch.data, target)
    torch.manual_seed(0)
    model = Progression(features, values)
    _fit(model, lambda: (_error(model, features, values) / model.target_deviation).square().mean())
    with torch.no_grad():
        residual = _error(model, unseen, unseen_values).square().sum()
    spread = (unseen_values - unseen_values.mean()).square().sum()
    return TrainedModel(model, {"r2": 1 - (residual / spread).item()}, {"features": unseen.numpy()})


def _split(data: object, target: torch.Tensor) -> list[torch.Tensor]:
    features = torch.tensor(data, dtype=torch.float32)
    return train_test_split(features, target, test_size=0.2, random_state=0)


def _error(model: Progression, features: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return model(features).squeeze(-1) - values


def _fit(model: nn.Module, loss: object) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    model.eval()
