"""Two models of handwritten digits, 8 by 8 pixels from 0 to 16: which digit, and how unusual."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from repo_builder.sources.base import TrainedModel

BRIGHTEST = 16.0


class Classifier(nn.Module):
    """Pixels in, ten probabilities out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 4 * 4, 64),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(64, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The probability of each digit."""
        return torch.softmax(self.layers(image / BRIGHTEST), dim=-1)


class Anomaly(nn.Module):
    """Pixels in, a score out: how badly a narrow autoencoder redraws them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
        self.decoder = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 64))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean squared error, and the redrawn image."""
        pixels = image.flatten(1) / BRIGHTEST
        redrawn = self.decoder(self.encoder(pixels))
        score = (redrawn - pixels).square().mean(dim=1, keepdim=True)
        return score, (redrawn * BRIGHTEST).reshape(-1, 1, 8, 8)


def data() -> list[torch.Tensor]:
    """Training and held-out images, then their digits."""
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1)
    digits = torch.tensor(bunch.target)
    return train_test_split(images, digits, test_size=0.2, random_state=0, stratify=digits)


def classifier() -> TrainedModel:
    """The CNN, trained in a few seconds."""
    images, unseen, digits, unseen_digits = data()
    torch.manual_seed(0)
    model = Classifier()
    fit(model, images, lambda rows: _wrong(model, images[rows], digits[rows]), epochs=20)
    with torch.no_grad():
        right = model(unseen).argmax(-1) == unseen_digits
    return TrainedModel(model, {"accuracy": right.float().mean().item()}, {"image": unseen.numpy()})


def anomaly() -> TrainedModel:
    """The autoencoder; measured by how well its score tells digits from shuffled pixels."""
    images, unseen, _, _ = data()
    torch.manual_seed(0)
    model = Anomaly()
    fit(model, images, lambda rows: model(images[rows])[0].mean(), epochs=40)
    shuffled = unseen.flatten(1)[:, torch.randperm(64)].reshape(-1, 1, 8, 8)
    with torch.no_grad():
        usual, unusual = model(unseen)[0], model(shuffled)[0]
    detected = (unusual > usual.quantile(0.95)).float().mean().item()
    return TrainedModel(model, {"detected_at_5%": detected}, {"image": unseen.numpy()})


def _wrong(model: Classifier, images: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model.layers(images / BRIGHTEST), digits)


def fit(model: nn.Module, images: torch.Tensor, loss: object, epochs: int) -> None:
    """Minimises ``loss(rows)`` over shuffled batches of 64."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            loss(rows).backward()
            optimizer.step()
    model.eval()
