"""Calibrate a cluster of your own: ``torchrun ... -m dgc_topo.calibration FILE [RATE]``."""

from dgc_topo.cli.calibrate_cluster import app
from dgc_topo.cli.streams import run

if __name__ == "__main__":
    run(app)
