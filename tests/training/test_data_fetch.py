"""Fetching: both sources, their failures, and packages opened without dpkg."""

import bz2
import gzip
import hashlib
import io
import lzma
import shutil
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.training.data import DataError, debian, fashion_mnist, fetch, fetch_fashion_mnist
from dgc_topo.training.data.debian import ar_members, deb_files, download_package
from dgc_topo.training.data.fetch import Source

CONTENT = {name: name.encode() * 100 for name in fashion_mnist.FILES}
PACKED = {name: gzip.compress(content, mtime=0) for name, content in CONTENT.items()}


def member(name, content):
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


def tar(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./usr/share/datasets/fashion-mnist/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def deb(files, suffix=".xz", pack=lzma.compress):
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": lzma.compress(tar({"control": b"odd"})),
        f"data.tar{suffix}": pack(tar(files)),
    }
    return b"!<arch>\n" + b"".join(member(name, content) for name, content in parts.items())


DEB = deb({f"{name}.gz": content for name, content in PACKED.items()})


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Let the set be four tiny files, so that whole fetches are tested without a network."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setattr(fashion_mnist, "FILES", sums)
    monkeypatch.setattr(fetch, "FILES", sums)


@pytest.fixture
def fake_apt(tmp_path, monkeypatch):
    """Put an apt-get on the path that runs the given Python lines in the download folder."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def write(lines):
        script = folder / "apt-get"
        script.write_text(f"#!{sys.executable}\nimport sys, pathlib, time\n{lines}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return script

    return write


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)],
)
def test_deb_is_opened_however_it_is_packed(tmp_path, suffix, pack):
    path = tmp_path / "some.deb"
    path.write_bytes(deb({"a": b"one", "b": b"two", "c": b"three"}, suffix, pack))
    assert deb_files(path, ["a", "c"]) == {"a": b"one", "c": b"three"}


def test_deb_packed_with_zstandard(tmp_path, monkeypatch):
    """The command is used where Python has no module; without either, the message says what."""
    path = tmp_path / "some.deb"
    zstd = shutil.which("zstd")
    path.write_bytes(deb({"a": b"one"}, ".zst", bytes))
    monkeypatch.setattr(debian, "_ZSTD_MODULES", ("no_such_module",))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        DataError, match=r"data\.tar\.zst: packed with Zstandard; needs Python 3\.14"
    ):
        deb_files(path, ["a"])
    cat = tmp_path / "zstd"
    cat.write_text(
        f"#!{sys.executable}\nimport sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())"
    )
    cat.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert deb_files(path, ["a"]) == {"a": b"one"}
    if zstd is not None:
        monkeypatch.setattr(shutil, "which", lambda _: zstd)
        with pytest.raises(DataError, match="damaged or cut short"):
            deb_files(path, ["a"])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "expected a Debian package"),
        (b"PK\3\4 a zip file", "expected a Debian package"),
        (DEB[:-40], "cut short"),
        (DEB[:100], "damaged at byte 72|cut short"),
        (b"!<arch>\n" + member("debian-binary", b"2.0\n"), "no data.tar inside"),
        (b"!<arch>\n" + member("data.tar.lz4", b""), "unknown compression"),
        (b"!<arch>\n" + member("data.tar.xz", b"junk"), "damaged or cut short"),
        (b"!<arch>\n" + member("data.tar.bz2", b"junk"), "damaged or cut short"),
        (b"!<arch>\n" + member("data.tar", b"junk" * 300), "damaged data.tar"),
        (deb({"other": b""}), "no wanted inside"),
    ],
)
def test_damaged_packages_are_refused(tmp_path, content, complaint):
    path = tmp_path / "some.deb"
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        deb_files(path, ["wanted"])


@given(st.integers(0, len(DEB) - 1))
def test_cut_archives_never_pass_for_whole(length):
    try:
        names = [name for name, _ in ar_members(DEB[:length], "cut.deb")]
    except DataError as error:
        assert str(error).startswith("cut.deb: ")  # noqa: PT017
    else:
        assert len(names) < 3


def test_fetch_from_a_debian_mirror(tmp_path, fake_apt):
    stored = tmp_path / "stored.deb"
    stored.write_bytes(DEB)
    fake_apt(f"pathlib.Path('set.deb').write_bytes(pathlib.Path({str(stored)!r}).read_bytes())")
    reports = []
    folder = fetch_fashion_mnist(tmp_path / "data", lambda *report: reports.append(report))
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{n}.gz" for n in CONTENT)
    assert not fashion_mnist.missing_files(folder)
    assert reports[-1] == ("dataset-fashion-mnist", len(DEB), None)


def test_apt_reads_its_lists_into_a_private_place_when_its_own_are_empty(tmp_path, fake_apt):
    fake_apt(
        "lists = [a for a in sys.argv if a.startswith('Dir::State::Lists=')]\n"
        "if not lists: sys.exit('E: Unable to locate package thing')\n"
        "seen = pathlib.Path(lists[0].split('=')[1]) / 'partial' / 'seen'\n"
        "if sys.argv[-1] == 'update': seen.write_text('')\n"
        "else: pathlib.Path('thing.deb').write_text('whole' if seen.exists() else 'blind')"
    )
    folder = tmp_path / "empty"
    folder.mkdir()
    assert download_package("thing", folder, lambda *_: None).read_text() == "whole"


def test_apt_that_hangs_is_ended(tmp_path, fake_apt, monkeypatch):
    fake_apt("time.sleep(60)")
    monkeypatch.setattr(debian, "_LIMIT_S", 0.2)
    with pytest.raises(DataError, match="apt-get: no end after 0 s"):
        download_package("thing", tmp_path, lambda *_: None)


def test_apt_that_brings_nothing_is_an_error(tmp_path, fake_apt):
    fake_apt("")
    with pytest.raises(DataError, match="no package came"):
        download_package("thing", tmp_path, lambda *_: None)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Keep test output clean."""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Serve a folder over HTTP in place of the public repository."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(fetch, "REPOSITORY_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("PATH", "")  # no apt-get
        monkeypatch.setenv("no_proxy", "*")
        yield folder
        server.shutdown()
        thread.join()


def test_fetch_over_http_where_there_is_no_apt(tmp_path, repository):
    for name, content in PACKED.items():
        (repository / f"{name}.gz").write_bytes(content)
    reports = []
    folder = fetch_fashion_mnist(tmp_path / "data", lambda *report: reports.append(report))
    assert not fashion_mnist.missing_files(folder)
    name, size = list(PACKED)[-1], len(list(PACKED.values())[-1])
    assert reports[-1] == (f"{name}.gz", size, size)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (gzip.compress(b"something else"), "wrong checksum"),
        (PACKED["train-images-idx3-ubyte"][:-9], "damaged or cut short"),
        (b"<html>sign in to the hotel network</html>", "damaged or cut short"),
        (None, "404|Not Found|File not found"),
    ],
    ids=["other", "cut", "html", "absent"],
)
def test_nothing_wrong_is_kept(tmp_path, repository, content, complaint):
    for name, packed in PACKED.items():
        (repository / f"{name}.gz").write_bytes(packed)
    if content is None:
        (repository / "train-images-idx3-ubyte.gz").unlink()
    else:
        (repository / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        fetch_fashion_mnist(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_endless_answer_is_cut_off(tmp_path, repository, monkeypatch):
    for name, packed in PACKED.items():
        (repository / f"{name}.gz").write_bytes(packed)
    monkeypatch.setattr(fetch, "_MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match="more than 10 bytes"):
        fetch_fashion_mnist(tmp_path / "data")


def failing(words):
    def get(names, progress):
        raise DataError(words)

    return get


def test_offline_error_lists_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    sources = (Source("mirror", failing("no network")), Source("web", failing("no name server")))
    monkeypatch.setattr(fetch, "SOURCES", sources)
    monkeypatch.setenv("DGC_TOPO_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        fetch_fashion_mnist()
    text = str(caught.value)
    assert "mirror: no network" in text
    assert "web: no name server" in text
    assert f"in {tmp_path / 'fashion-mnist'}" in text
    assert all(f"{name}.gz" in text for name in CONTENT)


def test_only_what_is_missing_or_damaged_is_fetched_again(tmp_path, monkeypatch):
    asked = []

    def get(names, progress):
        asked.append(tuple(names))
        return PACKED

    monkeypatch.setattr(fetch, "SOURCES", (Source("mirror", get),))
    fetch_fashion_mnist(tmp_path)
    assert asked.pop() == tuple(CONTENT)
    fetch_fashion_mnist(tmp_path)
    assert not asked  # complete: no source is asked
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    fetch_fashion_mnist(tmp_path)
    assert asked == [("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")]
    assert not fashion_mnist.missing_files(tmp_path)
