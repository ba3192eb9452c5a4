"""Data divided by label: everyone gets another mixture, and every sample goes to one worker."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.training.data import SampleDataset, Shard, load_dataset, sample_batches
from dgc_topo.training.data.label_skew import divided_by_label
from dgc_topo.training.settings import TrainSection

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(torch.tensor)
CONCENTRATIONS = st.floats(1e-4, 1e4)


@given(LABELS, st.integers(1, 9), CONCENTRATIONS, st.integers(0, 2**40))
def test_every_sample_goes_to_one_worker(labels, num_workers, concentration, seed):
    parts = divided_by_label(labels, num_workers, concentration, seed)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    again = divided_by_label(labels, num_workers, concentration, seed)
    assert all(map(torch.equal, parts, again))


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
def test_an_epoch_takes_its_samples_once_in_equally_many_steps(rows, num_workers, batch, epoch):
    size = rows * num_workers * batch
    labels = torch.arange(size) % 3
    data = SampleDataset.of(
        "mine", ((torch.zeros(size, 1), labels), (torch.zeros(1, 1), labels[:1]))
    )
    plans = [sample_batches(data, Shard(batch, r, num_workers, 5, 0.3)) for r in range(num_workers)]
    taken = torch.stack([plan.indices(epoch) for plan in plans])
    assert taken.shape == (num_workers, rows, batch)
    assert sorted(taken.flatten().tolist()) == list(range(size))
    for plan, own in zip(plans, taken, strict=True):
        assert plan.own is not None
        assert torch.isin(own, plan.own).all()


def test_orders_differ_between_epochs_and_divisions_between_seeds():
    data = load_dataset("fashion-mnist-subset")

    def plan(seed):
        return sample_batches(data, Shard(8, 1, 4, seed, 0.5))

    assert torch.equal(plan(1).own, plan(1).own)
    assert not torch.equal(plan(1).own, plan(2).own)
    assert torch.equal(plan(1).indices(2), plan(1).indices(2))
    assert not torch.equal(plan(1).indices(2), plan(1).indices(3))


def shares_of(concentration):
    labels = torch.arange(2000) % 10
    parts = divided_by_label(labels, 8, concentration, 3)
    counts = np.array([np.bincount(labels[part], minlength=10) for part in parts])
    return counts / counts.sum(1, keepdims=True)


def test_the_less_concentrated_the_fewer_classes():
    even, some, few = (shares_of(concentration).max(1).mean() for concentration in (1e4, 1, 0.05))
    assert even < 0.2 < some < 0.5 < few


@pytest.mark.parametrize("targets", [torch.zeros(6), torch.zeros(6, 2, dtype=torch.int64)])
def test_samples_without_classes_are_refused(targets):
    data = SampleDataset.of("mine", ((torch.zeros(6, 1), targets), (torch.zeros(6, 1), targets)))
    with pytest.raises(ValueError, match=r"^label_skew: the targets of mine are not known"):
        sample_batches(data, Shard(2, label_skew=0.5))


@pytest.mark.parametrize("dataset", ["austen", "emulated"])
def test_data_without_classes_is_refused(dataset):
    model = {"austen": "char-lstm", "emulated": "resnet50"}[dataset]
    with pytest.raises(ValueError, match=r"label_skew with dataset .*it has no classes"):
        TrainSection(
            dataset=dataset, model=model, world_size=2, batch_size_per_worker=2, epochs=1,
            learning_rate=0.1, max_steps_per_epoch=2, label_skew=0.5,
        )  # fmt: skip
