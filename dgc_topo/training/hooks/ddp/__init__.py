"""The hook of DistributedDataParallel: buckets of gradients, summed beside the backward pass."""
