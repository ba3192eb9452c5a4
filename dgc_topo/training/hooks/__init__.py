"""Communication hooks: gradients of DDP and FSDP2 over our topologies, compressed by DGC."""
