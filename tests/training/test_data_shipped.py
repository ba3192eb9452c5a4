"""The data inside the package: what was promised, to the byte."""

import hashlib
import importlib.util
import os
from pathlib import Path

import pytest
import torch

from dgc_topo.training.data import (
    DataError,
    ImageDataset,
    TextDataset,
    austen,
    data_dir,
    fashion_mnist,
    load_dataset,
)

ASSETS = austen.PATH.parent
LIMIT_BYTES = 6_000_000


@pytest.fixture(scope="module")
def subset():
    return load_dataset("fashion-mnist-subset")


@pytest.fixture(scope="module")
def novels():
    return load_dataset("austen")


def test_assets_fit_the_limit_and_name_their_licences():
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT_BYTES
    text = (ASSETS / "README.md").read_text(encoding="utf-8")
    for words in ("Zalando", "Julia Silge", "public domain", "Permission is hereby granted"):
        assert words in text


def test_subset_is_balanced_and_interleaved(subset):
    assert isinstance(subset, ImageDataset)
    assert (len(subset.train), len(subset.test)) == (10_000, 2_000)
    assert subset.shape == (1, 28, 28)
    assert subset.num_classes == 10
    for split, per_class in ((subset.train, 1_000), (subset.test, 200)):
        assert split.labels.bincount().tolist() == [per_class] * 10
        assert torch.equal(split.labels[:10], torch.arange(10))


def test_subset_images_are_distinct_and_none_is_in_both_parts(subset):
    train, test = (
        {image.numpy().tobytes() for image in split.images} for split in (subset.train, subset.test)
    )
    assert len(train) > 9_990  # the set itself repeats a few
    assert len(train & test) <= 5


def test_subset_is_normalised_to_zero_mean_and_unit_variance(subset):
    images = subset.normalise(subset.train.gather(torch.arange(len(subset.train))))
    assert images.dtype == torch.float32
    assert abs(float(images.mean())) < 0.01
    assert abs(float(images.std()) - 1) < 0.01


def test_novels_are_the_checked_text():
    text = "\n".join(austen.read_novels().values())
    assert hashlib.sha256(text.encode()).hexdigest() == austen.SHA256
    assert "".join(sorted(set(text))) == austen.VOCABULARY.characters
    assert len(austen.VOCABULARY) == 81
    assert 700_000 < len(text.split()) < 730_000
    assert "A NOTE ON THE TEXT" not in text


def test_each_novel_begins_and_ends_where_it_should():
    novels = austen.read_novels()
    for title, text in novels.items():
        assert text.upper().startswith(title.upper())
    assert novels["Emma"].endswith("FINIS")
    assert novels["Northanger Abbey"].rstrip().endswith("No. 97, Vol. II, Rambler.")
    assert novels["Sense and Sensibility"].endswith("THE END")


def test_novels_keep_the_end_of_every_novel_for_validation(novels):
    assert isinstance(novels, TextDataset)
    total = len(novels.train) + len(novels.validation)
    assert total == sum(novel.characters + 1 for novel in austen.NOVELS)
    assert 0.049 < len(novels.validation) / total < 0.051
    validation = novels.vocabulary.decode(novels.validation)
    for text in austen.read_novels().values():
        assert text[-2_000:] in validation


def test_vocabulary_encodes_and_decodes(novels):
    text = 'Mr. Darcy paid £5; "_really_?"\n'
    assert novels.vocabulary.decode(novels.vocabulary.encode(text)) == text
    assert novels.vocabulary.encode("").numel() == 0
    with pytest.raises(DataError, match="character 'é' at position 3"):
        novels.vocabulary.encode("café")


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_assets_are_refused(monkeypatch, tmp_path, damage):
    content = bytearray(austen.PATH.read_bytes())
    if damage == "cut":
        del content[-1_000:]
    else:
        content[500_000] ^= 1
    path = tmp_path / "austen.txt.xz"
    path.write_bytes(content)
    monkeypatch.setattr(austen, "PATH", path)
    with pytest.raises(DataError, match=r"austen\.txt\.xz"):
        load_dataset("austen")


def full_set() -> Path:
    """Return the folder of the full set, which only some machines have."""
    for folder in (data_dir() / fashion_mnist.NAME, fashion_mnist.DEBIAN_DIR):
        if folder.is_dir() and not fashion_mnist.missing_files(folder):
            return folder
    pytest.skip(f"the full set is not in {os.fspath(data_dir())}: dgc-topo data fashion-mnist")


@pytest.mark.slow
def test_subset_is_what_the_tool_chooses_from_the_full_set(subset):
    full = load_dataset("fashion-mnist", root=full_set())
    assert full.train.labels.bincount().tolist() == [6_000] * 10
    path = Path(__file__).parents[2] / "tools" / "build_assets.py"
    spec = importlib.util.spec_from_file_location("build_assets", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for part, split, all_of_it in (
        ("train", subset.train, full.train),
        ("t10k", subset.test, full.test),
    ):
        chosen = tool.choose(all_of_it.labels.numpy(), part, tool.PER_CLASS[part])
        assert torch.equal(all_of_it.gather(torch.from_numpy(chosen)), split.images)
