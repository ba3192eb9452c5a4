"""Data sets, and each worker's part of them."""

from dgc_topo.training.data.batches import SampleBatches, Shard, StreamBatches, TextWindow
from dgc_topo.training.data.dataset import (
    Dataset,
    ImageDataset,
    ImageSplit,
    TensorImages,
    TextDataset,
    Vocabulary,
)
from dgc_topo.training.data.dataset_files import DataError, data_dir
from dgc_topo.training.data.fetch import fetch_fashion_mnist
from dgc_topo.training.data.label_skew import sample_batches
from dgc_topo.training.data.load import dataset_names, load_dataset
from dgc_topo.training.data.samples import SampleDataset, Samples

__all__ = [
    "DataError",
    "Dataset",
    "ImageDataset",
    "ImageSplit",
    "SampleBatches",
    "SampleDataset",
    "Samples",
    "Shard",
    "StreamBatches",
    "TensorImages",
    "TextDataset",
    "TextWindow",
    "Vocabulary",
    "data_dir",
    "dataset_names",
    "fetch_fashion_mnist",
    "load_dataset",
    "sample_batches",
]
