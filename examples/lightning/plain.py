"""Training with Lightning, which starts the other processes by itself: python plain.py."""

import argparse

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
steps = parser.parse_args().steps


class Net(lightning.LightningModule):
    """A small network that learns from a teacher."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
        self.layers = nn.Sequential(layers, nn.Linear(256, 10))
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of a batch."""
        loss = nn.functional.cross_entropy(self.layers(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
images = torch.randn(steps * 64, 64)
loader = DataLoader(TensorDataset(images, teacher(images).argmax(1)), batch_size=32, shuffle=True)
model = Net()
trainer = lightning.Trainer(
    strategy=DDPStrategy(),
    devices=2,
    max_epochs=1,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, loader)
if trainer.is_global_zero:
    print(f"loss {sum(model.losses[-20:]) / 20:.4f}")
