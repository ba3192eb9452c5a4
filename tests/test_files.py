"""Files are written whole or not at all, by one helper that everything uses."""

import ast
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

import dgc_topo
from dgc_topo.files import WriteError, opened_whole, write_whole

PACKAGE = Path(dgc_topo.__file__).parent
#: Files of the kernel, which are no files on a disk; and the helper itself.
OF_THE_KERNEL = {"workers/lab/namespaces.py", "workers/lab/network.py"}


def test_a_file_is_new_or_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "lab.toml"
    write_whole(file, "one ü")
    write_whole(file, b"two")
    assert file.read_bytes() == b"two"

    def interrupted():
        with opened_whole(file) as half:
            half.write(b"thr")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError) as refused:
        write_whole(file, b"three")
    assert str(refused.value) == f"{file}: cannot be written: No space left on device"
    assert file.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [file]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(WriteError, match=r"none/x\.svg: cannot be written: No such file"):
        write_whole(tmp_path / "none" / "x.svg", b"")


def test_a_link_is_followed_and_rights_are_kept(tmp_path):
    file, link = tmp_path / "real", tmp_path / "link"
    file.write_bytes(b"old")
    file.chmod(0o640)
    link.symlink_to(file)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_device_or_a_pipe_is_written_to_as_it_is(tmp_path):
    write_whole(Path("/dev/null"), b"gone")
    assert Path("/dev/null").is_char_device()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"through")
    reader.join()
    assert heard == [b"through"]


def test_a_full_disk_costs_nothing_that_was_there(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root's rights")
    try:
        file = tmp_path / "report.html"
        write_whole(file, b"old")
        with pytest.raises(WriteError, match="cannot be written: No space left on device"):
            write_whole(file, bytes(2**20))
        assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
        assert file.read_bytes() == b"old"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def writes(file: Path) -> list[int]:
    """Return the lines of *file* that write one in place."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        words = [word.value for word in node.args if isinstance(word, ast.Constant)]
        modes = [word for word in words if isinstance(word, str) and set(word) <= set("wxabt+")]
        if name in {"write_text", "write_bytes", "to_csv"} or (name == "open" and any(modes)):
            found.append(node.lineno)
    return found


def test_nothing_else_in_the_package_writes_files_in_place():
    found = {
        str(file.relative_to(PACKAGE)): lines
        for file in sorted(PACKAGE.rglob("*.py"))
        if (lines := writes(file))
    }
    downloads = {"training/data/fetch.py"}  # pooch renames what is whole
    grow = {"logs/files.py"}  # a row at a time; a torn last row is dropped when they are read
    memory = {"workers/launching.py"}  # a file without a name, read once its writer has ended
    assert set(found) == {"files.py", *OF_THE_KERNEL, *downloads, *grow, *memory}
