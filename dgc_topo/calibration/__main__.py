"""Calibrate a cluster of your own: ``torchrun ... -m dgc_topo.calibration FILE [RATE]``."""

from dgc_topo.cli.calibrate_cluster import app

if __name__ == "__main__":
    app()
