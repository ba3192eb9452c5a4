"""Old name of ``python -m dgc_topo train``, for one release."""

import sys

from dgc_topo.cli.main import app
from dgc_topo.cli.outputs import warn_of_old_command
from dgc_topo.cli.streams import run
from dgc_topo.liveness import end_with_launcher

if __name__ == "__main__":
    end_with_launcher()
    warn_of_old_command("-m dgc_topo.train", "-m dgc_topo train")
    sys.argv[1:1] = ["train"]
    run(app)
