"""The distributed optimizer: any torch.optim.Optimizer, over any topology, without DDP."""
