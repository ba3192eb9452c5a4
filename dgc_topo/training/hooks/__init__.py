"""Communication hooks: gradients of DDP and FSDP2 over our topologies, compressed by DGC.

`ddp` and `fsdp` know how each of the two hands out gradients.  What follows is the same in both and
lies beside them: settings, compressors with state by parameter, sums, snapshots, log lines.
"""
