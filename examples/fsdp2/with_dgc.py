"""FSDP2 with shards inside each machine: torchrun --nproc-per-node 2 plain.py."""

import argparse
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import dgc_topo as dt

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--shards", type=int, default=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
options = parser.parse_args()

dist.init_process_group("gloo")
machines = dist.get_world_size() // options.shards
mesh = init_device_mesh("cpu", (machines, options.shards), mesh_dim_names=("machine", "shard"))
torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
layers = [
    nn.Sequential(nn.Linear(64, 256), nn.ReLU()),
    nn.Sequential(nn.Linear(256, 256), nn.ReLU()),
]
model = nn.Sequential(*layers, nn.Linear(256, 10))
for layer in layers:
    fully_shard(layer, mesh=mesh["shard"])
fully_shard(model, mesh=mesh["shard"])
dt.compress_fsdp(model, mesh["machine"], "butterfly", density=0.05)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

torch.manual_seed(1 + dist.get_rank())  # each rank has images of its own
losses = []
for _ in range(options.steps):
    images = torch.randn(32, 64)
    labels = teacher(images).argmax(1)
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())

if dist.get_rank() == 0:
    print(f"loss {sum(losses[-20:]) / 20:.4f}")
dist.destroy_process_group()
