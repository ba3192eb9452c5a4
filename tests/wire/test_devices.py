"""Where kernels for GPUs are compiled."""

import os

import pytest

from dgc_topo.wire.tensors import find_cache


@pytest.mark.parametrize("own", ["{}/own", "{}/file/below", "/proc/nowhere"])
def test_triton_compiles_where_it_may_write(monkeypatch, tmp_path, own: str):
    (tmp_path / "file").touch()
    before = own.format(tmp_path)
    monkeypatch.setenv("TRITON_CACHE_DIR", before)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    find_cache()
    after = os.environ["TRITON_CACHE_DIR"]
    assert os.access(after, os.W_OK)
    assert (after == before) == own.endswith("own")


def test_a_folder_that_somebody_else_made_is_not_used(monkeypatch, tmp_path):
    """Whoever owns the cache decides what runs on the GPU."""
    monkeypatch.setenv("TRITON_CACHE_DIR", "/proc/nowhere")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.getuid", lambda: 12345)
    find_cache()
    assert os.environ["TRITON_CACHE_DIR"] == "/proc/nowhere"
