"""``python -m dgc_topo.cli`` is ``dgc-topo``."""

from dgc_topo.cli.main import main

if __name__ == "__main__":
    main()
