"""A model and a data set of one's own, for scenario.toml beside this file."""

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """A perceptron for points in eight dimensions."""

    def __init__(self, hidden: int = 32, num_classes: int = 4) -> None:
        super().__init__()
        self.hidden = nn.Linear(8, hidden)
        self.classifier = nn.Linear(hidden, num_classes)

    def forward(self, points: Tensor) -> Tensor:
        """Return logits, shape (batch, num_classes), of points (batch, 8)."""
        return self.classifier(torch.relu(self.hidden(points)))


def load(
    noise: float = 1.0, num_classes: int = 4
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return what to learn and what to test on: noisy points around a centre per class."""
    centres = 2 * torch.randn(num_classes, 8)
    targets = torch.arange(1_200) % num_classes
    points = centres[targets] + noise * torch.randn(1_200, 8)
    return (points[:1_000], targets[:1_000]), (points[1_000:], targets[1_000:])
