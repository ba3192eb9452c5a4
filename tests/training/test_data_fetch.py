"""Fetching: mirrors, their failures, and what is kept of a download."""

import gzip
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from dgc_topo.training.data import (
    DataError,
    fashion_mnist,
    fetch,
    fetch_fashion_mnist,
    load_dataset,
)

CONTENT = {name: name.encode() * 100 for name in fashion_mnist.FILES}
PACKED = {name: gzip.compress(content, mtime=0) for name, content in CONTENT.items()}
ABSENT = "http://127.0.0.1:1"  # where nobody listens


def sums(files):
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Let the set be four tiny files, so that whole fetches are tested without a network."""
    monkeypatch.setattr(fashion_mnist, "FILES", sums(CONTENT))
    monkeypatch.setattr(fetch, "PACKED_FILES", sums(PACKED))
    monkeypatch.setenv("no_proxy", "*")


class QuietHandler(SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def log_message(self, *_):
        """Keep test output clean."""

    def do_GET(self):
        self.asked.append(self.path.removeprefix("/"))
        super().do_GET()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Serve a folder over HTTP in place of the public repository."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name, content in PACKED.items():
        (folder / f"{name}.gz").write_bytes(content)
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(fetch, "MIRRORS", (f"http://127.0.0.1:{server.server_port}",))
        QuietHandler.asked.clear()
        yield folder
        server.shutdown()
        thread.join()


def test_the_whole_set_is_fetched(tmp_path, repository, capfd):
    reports = []
    folder = fetch_fashion_mnist(tmp_path / "data", lambda *report: reports.append(report))
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{n}.gz" for n in CONTENT)
    assert not fashion_mnist.missing_files(folder)
    name, size = list(PACKED)[-1], len(list(PACKED.values())[-1])
    assert reports[-1] == (f"{name}.gz", size, size)
    assert all(done <= total for _, done, total in reports)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (gzip.compress(b"something else"), "does not match the known hash"),
        (PACKED["train-labels-idx1-ubyte"][:-9], "does not match the known hash"),
        (b"<html>sign in to the hotel network</html>", "does not match the known hash"),
        (None, "404 Client Error: File not found"),
    ],
    ids=["other", "cut", "html", "absent"],
)
def test_nothing_wrong_is_kept(tmp_path, repository, content, complaint):
    """What came before is kept, whole: the next call goes on from there."""
    wrong = repository / "train-labels-idx1-ubyte.gz"
    wrong.unlink()
    if content is not None:
        wrong.write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        fetch_fashion_mnist(tmp_path / "data")
    kept = [path.name for path in (tmp_path / "data").iterdir()]
    assert kept == ["train-images-idx3-ubyte.gz"]
    wrong.write_bytes(PACKED["train-labels-idx1-ubyte"])
    assert not fashion_mnist.missing_files(fetch_fashion_mnist(tmp_path / "data"))


def test_an_interrupted_download_leaves_nothing(tmp_path, repository):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_fashion_mnist(tmp_path / "data", interrupt)
    assert not list((tmp_path / "data").iterdir())


def test_a_mirror_that_fails_is_followed_by_the_next(tmp_path, repository, monkeypatch):
    monkeypatch.setattr(fetch, "MIRRORS", (ABSENT, *fetch.MIRRORS))
    assert not fashion_mnist.missing_files(fetch_fashion_mnist(tmp_path / "data"))


def test_endless_answer_is_cut_off(tmp_path, repository, monkeypatch):
    monkeypatch.setattr(fetch, "_MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match="more than 10 bytes"):
        fetch_fashion_mnist(tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path, repository):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"file/data: cannot be written .*set DGC_TOPO_DATA"):
        fetch_fashion_mnist(tmp_path / "file" / "data")


def test_offline_error_lists_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MIRRORS", (ABSENT, f"{ABSENT}/other"))
    monkeypatch.setenv("DGC_TOPO_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        fetch_fashion_mnist()
    text = str(caught.value)
    assert f"{ABSENT}/train-images-idx3-ubyte.gz: " in text
    assert f"{ABSENT}/other/train-images-idx3-ubyte.gz: " in text
    assert "Connection refused" in text
    assert f"in {tmp_path / 'fashion-mnist'}" in text
    assert all(f"{name}.gz" in text for name in CONTENT)
    assert "dataset-fashion-mnist" in text


def test_an_installed_package_is_read_after_a_fetch_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MIRRORS", (ABSENT,))
    monkeypatch.setenv("DGC_TOPO_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path / "installed")
    with pytest.raises(DataError, match="could not be fetched"):
        fetch_fashion_mnist()
    (tmp_path / "installed").mkdir()
    with pytest.raises(DataError, match=f"no train-images-.* in {tmp_path / 'installed'}"):
        load_dataset("fashion-mnist")


def test_only_what_is_missing_or_damaged_is_fetched_again(tmp_path, repository):
    """Content counts, not how it was packed: Debian's package and others pack it their own way."""
    fetch_fashion_mnist(tmp_path)
    assert QuietHandler.asked == [f"{name}.gz" for name in CONTENT]
    QuietHandler.asked.clear()
    other = gzip.compress(CONTENT["train-images-idx3-ubyte"], mtime=1)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(other)
    fetch_fashion_mnist(tmp_path)
    assert not QuietHandler.asked
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    fetch_fashion_mnist(tmp_path)
    assert QuietHandler.asked == ["train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    assert not fashion_mnist.missing_files(tmp_path)
