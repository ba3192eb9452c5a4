"""Attachments that are refused; prints why."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dgc_topo.integrations.attachment import Attachment, file_of


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
    torch.save({"ranks": 3}, file_of(folder / "of-three"))
    dist.barrier()
    tell(plain)
    tell(DistributedDataParallel(plain), "gossip:graph=ring")
    tell(DistributedDataParallel(plain), checkpoint=folder / "of-three")
    tell(DistributedDataParallel(plain), checkpoint=folder / "nothing")
    model = DistributedDataParallel(plain)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9)
    attached = Attachment("test", model, optimizer, "ring", 0.5, {}).optimizer
    try:
        attached.load_state_dict(attached.state_dict())  # as a library does with that of rank 0
    except ValueError as error:
        print(str(error), flush=True)


if __name__ == "__main__":
    main()
