"""The main program of a forked process: it runs a script of a user's, as ``python FILE`` does."""

import atexit
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    del sys.argv[0]
    # What the script made lives on until the process ends, as at the end of any script.
    space = {"__name__": "__main__", "__file__": sys.argv[0]}
    exec(compile(Path(sys.argv[0]).read_bytes(), sys.argv[0], "exec"), space)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what forked it takes any other end for a failure
