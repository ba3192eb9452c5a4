"""A scenario small enough to be trained in a test."""

from collections.abc import Sequence
from pathlib import Path

TINY = """
name = "tiny"
description = "test data"
seed = 3
[train]
dataset = "fashion-mnist-subset"
model = "mlp"
world_size = {world_size}
batch_size_per_worker = {batch_size}
epochs = {epochs}
max_steps_per_epoch = {steps}
learning_rate = 0.1
timeout_s = {timeout_s}
[compression]
densities = {densities}
warm_up = "none"
{topologies}
[simulate]
networks = ["1gbe", "ib-edr"]
world_sizes = [2, 4]
"""


def write_tiny(
    folder: Path,
    *topologies: str,
    world_size: int = 3,
    densities: Sequence[float] = (1.0, 0.01),
    epochs: int = 2,
    timeout_s: float = 30.0,
    batch_size: int = 8,
    steps: int = 6,
) -> Path:
    """Write the scenario into *folder*; a topology is ``name`` or ``name?key = value``."""
    path = folder / "tiny.toml"
    sections = [
        f"[[topologies]]\nname = {name.partition('?')[0]!r}\n"
        f"options = {{ {name.partition('?')[2]} }}\n"
        for name in topologies
    ]
    path.write_text(
        TINY.format(
            world_size=world_size,
            epochs=epochs,
            timeout_s=timeout_s,
            batch_size=batch_size,
            steps=steps,
            densities=list(densities),
            topologies="".join(sections),
        )
    )
    return path
