"""The command line: ``python -m dgc_topo`` is ``dgc-topo``, also under ``torchrun``."""

from dgc_topo.cli.main import main

if __name__ == "__main__":
    main()
