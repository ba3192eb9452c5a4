"""The hook of FSDP2: shards of gradients, averaged between machines."""
