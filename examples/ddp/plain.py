"""Data-parallel training of a small network: torchrun --nproc-per-node 4 examples/ddp/plain.py."""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=600)
steps = parser.parse_args().steps

dist.init_process_group("gloo")
torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
model = DistributedDataParallel(nn.Sequential(model, nn.Linear(128, 10)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

torch.manual_seed(1 + dist.get_rank())  # each rank has images of its own
losses = []
for _ in range(steps):
    images = torch.randn(32, 64)
    labels = teacher(images).argmax(1)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())

if dist.get_rank() == 0:
    print(f"loss {sum(losses[-20:]) / 20:.4f}")
dist.destroy_process_group()
