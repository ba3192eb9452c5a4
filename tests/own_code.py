"""Python files as users write them, for scenarios in tests."""

from pathlib import Path

NET = '''
import torch
from torch import nn
from torch.utils.data import Dataset


class Net(nn.Module):
    """Batch statistics, a tied weight and dropout: each differs between workers if done wrong."""

    def __init__(self, hidden: int = 8, out: int = 3):
        super().__init__()
        self.first, self.second = nn.Linear(8, hidden), nn.Linear(hidden, hidden)
        self.again = nn.Linear(hidden, hidden)
        self.again.weight = self.second.weight
        self.norm, self.dropout = nn.BatchNorm1d(hidden), nn.Dropout(0.1)
        self.last = nn.Linear(hidden, out)

    def forward(self, inputs):
        hidden = torch.relu(self.norm(self.first(inputs)))
        hidden = self.dropout(torch.relu(self.again(torch.relu(self.second(hidden)))))
        return self.last(hidden)


def small(out: int = 1):
    return nn.Linear(8, out)


class Stateless(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(81, 4), nn.Linear(4, 81)

    def forward(self, tokens):
        return self.out(self.embedding(tokens))


def classes(noise: float = 0.3, number: int = 300):
    centres = torch.randn(3, 8)
    targets = torch.arange(number) % 3
    inputs = centres[targets] + noise * torch.randn(number, 8)
    return (inputs[:240], targets[:240]), (inputs[240:], targets[240:])


class Lines(Dataset):
    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        inputs = torch.sin(torch.arange(8.0) + index)
        return inputs + 0.01 * torch.rand(8), inputs.sum().reshape(1)


def lines(data_path=None):
    return Lines(64), Lines(16)


def squares(outputs, targets):
    return (outputs - targets).square().mean()


def images():
    return [(inputs.view(-1, 1, 2, 4), targets) for inputs, targets in classes()]
'''

SCENARIO = """
name = "own"
seed = 3
topologies = ["ring"]
[train]
dataset = "net.py:classes"
model = "net.py:Net"
world_size = 3
batch_size_per_worker = 4
epochs = 2
max_steps_per_epoch = 5
learning_rate = 0.05
timeout_s = 30
workers = "virtual"
[compression]
densities = [0.1]
warm_up = "none"
"""


def write_own(folder: Path, text: str = SCENARIO, code: str = NET) -> Path:
    """Write a scenario and the Python file beside it; return the scenario's path."""
    (folder / "net.py").write_text(code)
    (folder / "own.toml").write_text(text)
    return folder / "own.toml"
