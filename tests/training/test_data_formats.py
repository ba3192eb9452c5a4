"""Reading files: what is damaged, missing or not what it says ends in one clear error."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dgc_topo.training.data import (
    DataError,
    ImageDataset,
    TensorImages,
    TextDataset,
    Vocabulary,
    data_dir,
    dataset_names,
    fashion_mnist,
    load_dataset,
)
from dgc_topo.training.data.dataset_files import read_unpacked, unpack
from dgc_topo.training.data.fashion_mnist import parse_idx


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_idx_round_trip(count, rows, columns):
    array = np.arange(count * rows * columns, dtype=np.uint8).reshape(count, rows, columns)
    assert np.array_equal(parse_idx(idx(array), 3, "images").numpy(), array)


@given(st.integers(0, 15 + 12))
def test_idx_cut_short_is_refused(length):
    data = idx(np.zeros((3, 2, 2)))
    with pytest.raises(DataError, match=r"^images: .*expected"):
        parse_idx(data[:length], 3, "images")


@given(st.binary(max_size=64))
def test_idx_of_arbitrary_bytes_is_refused(data):
    with pytest.raises(DataError, match=r"^labels: .*expected"):
        parse_idx(b"\0\0\x09" + data, 1, "labels")


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_idx_sizes_that_lie_are_refused(count, rows, columns):
    data = bytes([0, 0, 8, 3]) + struct.pack(">3I", count, rows, columns) + bytes(7)
    if count * rows * columns == 7:
        assert parse_idx(data, 3, "images").numel() == 7
    else:
        with pytest.raises(DataError, match=rf"header says {count} x {rows} x {columns}, 7 bytes"):
            parse_idx(data, 3, "images")


def test_idx_longer_than_its_header_says_is_refused():
    with pytest.raises(DataError, match="13 bytes follow, expected 12"):
        parse_idx(idx(np.zeros((3, 2, 2))) + b"\0", 3, "images")


@given(st.data())
def test_damaged_gzip_is_refused_or_read_as_it_was(data):
    """A flipped bit in a time stamp does no harm; anything else has to be noticed."""
    content = bytes(range(256)) * 4
    packed = bytearray(gzip.compress(content))
    if data.draw(st.booleans()):
        del packed[data.draw(st.integers(0, len(packed) - 1)) :]
    else:
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = unpack(bytes(packed), ".gz", "file.gz")
    except DataError as error:
        assert str(error).startswith("file.gz: damaged")  # noqa: PT017
    else:
        assert found in {content, b""}


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.gz: cannot be read"):
        read_unpacked(tmp_path / "absent.gz")


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(DataError, match=r"'mnist'.*austen, cifar10, .*fashion-mnist-subset"):
        load_dataset("mnist")
    assert "image-folder" in dataset_names()


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(DataError, match="takes no root"):
        load_dataset("austen", root=tmp_path)
    with pytest.raises(DataError, match="takes no image_size"):
        load_dataset("austen", image_size=32)


def test_data_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DGC_TOPO_DATA", str(tmp_path))
    assert data_dir() == tmp_path
    monkeypatch.delenv("DGC_TOPO_DATA")
    assert data_dir().name == "dgc-topo"


def test_missing_full_set_says_how_to_get_it(tmp_path):
    with pytest.raises(
        DataError, match=f"in {tmp_path}; get it with 'dgc-topo data fashion-mnist'"
    ):
        load_dataset("fashion-mnist", root=tmp_path)


def test_wrong_checksum_is_refused(tmp_path):
    for name in fashion_mnist.FILES:
        (tmp_path / name).write_bytes(idx(np.zeros(3)))
    with pytest.raises(DataError, match=r"wrong checksum, SHA-256 .* expected [0-9a-f]{64}"):
        load_dataset("fashion-mnist", root=tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        (np.zeros((2, 27, 28)), np.zeros(2), "27 x 28 pixels, expected 28 x 28"),
        (np.zeros((2, 28, 28)), np.zeros(3), "one for 2 images"),
        (np.zeros((2, 28, 28)), np.full(2, 10), "labels from 10 to 10, expected 0 to 9"),
    ],
)
def test_wrong_shapes_are_refused(tmp_path, monkeypatch, images, labels, complaint):
    monkeypatch.setattr(fashion_mnist, "check_sha256", lambda *_: None)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    with pytest.raises(DataError, match=complaint):
        load_dataset("fashion-mnist", root=tmp_path)


def test_datasets_refuse_nonsense():
    good = TensorImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    small = TensorImages(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="expected uint8"):
        TensorImages(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="expected the same"):
        ImageDataset("toy", good, small, ("a", "b"), (0.5,), (0.5,))
    with pytest.raises(DataError, match="expected a row of at least 2 uint8"):
        TextDataset("toy", torch.zeros(3), torch.zeros(3), Vocabulary("ab"))
    tokens = torch.tensor([0, 2], dtype=torch.uint8)
    with pytest.raises(DataError, match="train token 2, expected below 2"):
        TextDataset("toy", tokens, tokens, Vocabulary("ab"))
    with pytest.raises(DataError, match="distinct"):
        Vocabulary("aa")


def cifar_records(count, label_bytes, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = rng.integers(0, 10, (count, label_bytes), dtype=np.uint8)
    return pixels, labels


def write_cifar(folder, files, label_bytes, key, *, binary):
    folder.mkdir(parents=True)
    for seed, name in enumerate(files):
        pixels, labels = cifar_records(4, label_bytes, seed)
        if binary:
            (folder / f"{name}.bin").write_bytes(np.hstack([labels, pixels]).tobytes())
        else:
            content = {b"data": pixels, key: labels[:, -1].tolist(), b"filenames": [b"a.png"] * 4}
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))


CIFAR = {
    "cifar10": (
        ("cifar-10-batches-bin", "cifar-10-batches-py"),
        [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"],
        1,
        b"labels",
    ),
    "cifar100": (("cifar-100-binary", "cifar-100-python"), ["train", "test"], 2, b"fine_labels"),
}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", sorted(CIFAR))
def test_cifar_is_read_in_both_forms(tmp_path, name, binary):
    folders, files, label_bytes, key = CIFAR[name]
    write_cifar(tmp_path / folders[not binary], files, label_bytes, key, binary=binary)
    dataset = load_dataset(name, root=tmp_path)
    pixels, labels = cifar_records(4, label_bytes, 0)
    assert isinstance(dataset, ImageDataset)
    assert isinstance(dataset.train, TensorImages)
    assert dataset.shape == (3, 32, 32)
    assert len(dataset.train) == 4 * (len(files) - 1)
    assert np.array_equal(dataset.train.images[:4].numpy().reshape(4, -1), pixels)
    assert dataset.train.labels[:4].tolist() == labels[:, -1].tolist()
    directly = load_dataset(name, root=tmp_path / folders[not binary])
    assert isinstance(directly, ImageDataset)
    assert torch.equal(directly.test.labels, dataset.test.labels)


def test_cifar_takes_class_names_from_its_folder(tmp_path):
    folders, files, label_bytes, key = CIFAR["cifar10"]
    write_cifar(tmp_path / folders[0], files, label_bytes, key, binary=True)
    assert load_dataset("cifar10", root=tmp_path).class_names[3] == "3"
    names = [f"class{number}" for number in range(10)]
    (tmp_path / folders[0] / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    assert load_dataset("cifar10", root=tmp_path).class_names[3] == "class3"


class Bomb:
    def __reduce__(self):
        return (eval, ("1 / 0",))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not a CIFAR file"),
        (b"\x80\x02}", "not a CIFAR file"),
        (pickle.dumps([1], protocol=2), "holds list, expected a dictionary"),
        (pickle.dumps({b"labels": [1]}, protocol=2), "expected a dictionary of data and labels"),
        (
            pickle.dumps({b"data": np.zeros((2, 5), np.uint8), b"labels": [0, 0]}),
            "expected .images",
        ),
        (pickle.dumps(Bomb()), "eval is not an array"),
    ],
)
def test_forged_or_damaged_cifar_pickles_are_refused(tmp_path, content, complaint):
    for name in CIFAR["cifar10"][1]:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        load_dataset("cifar10", root=tmp_path)


def test_missing_or_cut_cifar_is_refused(tmp_path):
    with pytest.raises(DataError, match=f"neither cifar-10-batches-bin .* in {tmp_path}"):
        load_dataset("cifar10", root=tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073))
    with pytest.raises(DataError, match=r"no data_batch_1\.bin"):
        load_dataset("cifar10", root=tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3072))
    with pytest.raises(DataError, match="3072 bytes, expected a multiple of 3073"):
        load_dataset("cifar10", root=tmp_path)


def write_images(root, parts=("train", "val"), classes=("cat", "dog")):
    for part in parts:
        for shade, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(2):
                size = (20 + 10 * number, 16)
                Image.new("RGB", size, (shade * 100, 50, 0)).save(folder / f"{number}.png")
            (folder / "notes.txt").write_text("not an image")


def test_image_folder_is_decoded_on_demand(tmp_path):
    write_images(tmp_path)
    dataset = load_dataset("image-folder", root=tmp_path, image_size=8)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.shape == (3, 8, 8)
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    images = dataset.train.gather(torch.tensor([3, 0]))
    assert images.shape == (2, 3, 8, 8)
    assert images[:, 0].unique().tolist() == [0, 100]
    assert load_dataset("image-folder", root=tmp_path).shape == (3, 64, 64)


def test_image_folder_errors_name_the_place(tmp_path):
    with pytest.raises(DataError, match=f"folders train and val .* in {tmp_path}"):
        load_dataset("image-folder", root=tmp_path)
    write_images(tmp_path)
    with pytest.raises(DataError, match="image_size 0"):
        load_dataset("image-folder", root=tmp_path, image_size=0)
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cat.0\.png: cannot be decoded"):
        load_dataset("image-folder", root=tmp_path).train.gather(torch.tensor([0]))
    (tmp_path / "val" / "bird").mkdir()
    with pytest.raises(DataError, match="classes bird are not in"):
        load_dataset("image-folder", root=tmp_path)


def test_image_folder_without_images_is_refused(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no images, expected files of .bmp"):
        load_dataset("image-folder", root=tmp_path)
