"""Training with Hugging Face Accelerate: accelerate launch (or torchrun) plain.py."""

import argparse

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
steps = parser.parse_args().steps

accelerator = Accelerator(cpu=not torch.cuda.is_available())
torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
images = torch.randn(steps * 64, 64)
loader = DataLoader(TensorDataset(images, teacher(images).argmax(1)), batch_size=32, shuffle=True)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
model = nn.Sequential(model, nn.Linear(256, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

losses = []
for inputs, labels in loader:
    loss = nn.functional.cross_entropy(model(inputs), labels)
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())

accelerator.print(f"loss {sum(losses[-20:]) / 20:.4f}")
accelerator.end_training()
