"""What tests of the simulator share."""

import pytest

from dgc_topo.network import read_simgrid


@pytest.fixture
def platform(tmp_path):
    def read(text):
        path = tmp_path / "platform.xml"
        path.write_text(text, encoding="utf-8")
        return read_simgrid(path)

    return read
