"""Train under any launcher: ``torchrun ... -m dgc_topo.train SCENARIO --topology NAME``."""

from dgc_topo.cli.streams import run
from dgc_topo.cli.under_launcher import app

if __name__ == "__main__":
    run(app)
