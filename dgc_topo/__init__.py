"""dgc-topo: one schedule per topology, proved, run on real wires, and predicted at any scale."""
