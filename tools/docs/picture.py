"""The README's picture: ``python -m tools.docs.picture docs/speedup.svg`` draws it."""

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import dgc_topo as dt
from dgc_topo.arrays import FloatArray
from dgc_topo.network.fabrics import load_fabric
from dgc_topo.report.style import new_figure, save_picture, style_axes

NUM_RANKS = 64
_GBIT = 1e9 / 8  # bytes
#: Name, density and colour of each line; all overlap with the backward pass.
WAYS = [
    ("DGC, 0.1 % of each gradient", "butterfly", 0.001, "#0072B2"),
    ("DGC, 1 %", "butterfly", 0.01, "#56B4E9"),
    ("whole gradients", "ring", 1.0, "#D55E00"),
]
#: Of ResNet-50's 25.6 M elements on the P100 that its compute time is of: memory traffic alone.
COMPRESSING = "0.84ms"


def speedups(topology: str, density: float, gbit_per_s: FloatArray) -> list[float]:
    """Return the predicted speed-up of ResNet-50 over one worker, for each bandwidth."""
    codec = COMPRESSING if density < 1 else None
    fabric = load_fabric("10gbe")
    return [
        dt.simulate_step(
            "resnet50",
            topology,
            replace(fabric, bandwidth_bytes_per_s=each * _GBIT),
            world_size=NUM_RANKS,
            density=density,
            codec=codec,
            overlap=True,
        ).speedup
        for each in gbit_per_s
    ]


def draw() -> Figure:
    """Draw speed-ups over bandwidths."""
    bandwidths = np.geomspace(0.1, 100, 13)
    figure = new_figure(7.5, 3.2, f"ResNet-50 on {NUM_RANKS} workers, predicted")
    axes = figure.subplots()
    for name, topology, density, color in WAYS:
        found = speedups(topology, density, bandwidths)
        axes.semilogx(bandwidths, found, color=color, label=f"{name} ({topology})", linewidth=2)
    style_axes(axes, x="bandwidth of each worker's link", y="speed-up over one worker")
    axes.set_xticks([0.1, 1, 10, 100], ["100 Mbit/s", "1 Gbit/s", "10 Gbit/s", "100 Gbit/s"])
    axes.minorticks_off()
    axes.set_ylim(0, NUM_RANKS)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def write(file: Path) -> None:
    """Draw it into a file, always with the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "dgc-topo"}):
        save_picture(draw(), file)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
