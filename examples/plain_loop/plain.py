"""Training of a small network: python examples/plain_loop/plain.py."""

import torch
from torch import nn

torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
model = nn.Sequential(model, nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)

torch.manual_seed(1)
losses = []
for _ in range(400):
    images = torch.randn(32, 64)
    labels = teacher(images).argmax(1)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())

print(f"loss {sum(losses[-20:]) / 20:.4f}")
