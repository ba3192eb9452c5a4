"""Attachments that are refused; prints why."""

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dgc_topo.integrations.attachment import Attachment, file_of
from dgc_topo.training.checkpoints.file import read_file, write_file


def tell(model: nn.Module, topology: str = "ring", checkpoint: Path | None = None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    try:
        Attachment("test", model, optimizer, topology, 0.5, {}, checkpoint)
        print("no error, and all residuals begin at zero", flush=True)
    except ValueError as error:
        print(str(error), flush=True)


def main() -> None:
    dist.init_process_group("gloo")
    plain = nn.Linear(4, 4)
    folder = Path(sys.argv[1])
    write_file(file_of(folder / "of-three"), {"ranks": 3, "optimizer": {}})
    write_file(file_of(folder / "other"), {"ranks": 2})
    file_of(folder / "cut").write_bytes(file_of(folder / "of-three").read_bytes()[:300])
    dist.barrier()
    tell(plain)
    tell(DistributedDataParallel(plain), "gossip:graph=ring")
    tell(DistributedDataParallel(plain), checkpoint=folder / "of-three")
    tell(DistributedDataParallel(plain), checkpoint=folder / "other")
    tell(DistributedDataParallel(plain), checkpoint=folder / "cut")
    tell(DistributedDataParallel(plain), checkpoint=folder / "nothing")
    model = DistributedDataParallel(plain)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9)
    attached = Attachment("test", model, optimizer, "ring", 0.5, {}).optimizer
    attached.load_state_dict(attached.state_dict())  # as a library does with that of rank 0
    try:
        attached.step()
    except ValueError as error:
        print(str(error), flush=True)
    lost = mass_lost(folder / "another-number", model)
    print(f"of 3 ranks {lost < 1e-6}", flush=True)


def mass_lost(place: Path, model: DistributedDataParallel) -> float:
    """Return how much of the residuals of three ranks two of them do not take over."""
    optimizer = torch.optim.SGD(model.module.parameters(), 0.1)
    attachment = Attachment(
        "test", DistributedDataParallel(model.module), optimizer, "ring", 0.1, {}
    )
    model.module(torch.randn(3, 4)).square().sum().backward()
    attachment.optimizer.step()
    attachment.save(place)
    content = read_file(file_of(place))
    residual = content["optimizer"]["dgc_topo"]["compressor"]["residual"]["weight"]
    given = residual.clone()
    dist.all_reduce(given)
    if dist.get_rank() == 1:  # which stands for two
        other = copy.deepcopy(content)
        other["optimizer"]["dgc_topo"]["compressor"]["residual"]["weight"] *= 0.25
        residual *= 0.75
        write_file(file_of(place, 2), {**other, "ranks": 3})
    write_file(file_of(place), {**content, "ranks": 3})
    dist.barrier()
    attachment.load(place)
    taken = attachment.optimizer.state_dict()["dgc_topo"]["compressor"]["residual"]["weight"]
    dist.all_reduce(taken)
    assert given.abs().max() > 0
    return float((taken - given).abs().max())


if __name__ == "__main__":
    main()
