"""Sharding: N workers with batches of b are one worker with batches of N*b."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dgc_topo.training.data import SampleBatches, Shard, StreamBatches
from dgc_topo.training.data.batches import CROP_FLIP_RANDOMS, crop_flip

COUNTS = st.integers(1, 5)


def shards(num_workers, batch_size, seed=0):
    return [Shard(batch_size, rank, num_workers, seed) for rank in range(num_workers)]


@given(st.integers(1, 200), COUNTS, COUNTS, st.integers(0, 2**40), st.integers(0, 3))
def test_workers_together_see_the_batches_of_one(num_samples, num_workers, batch_size, seed, epoch):
    assume(num_samples >= num_workers * batch_size)
    whole = SampleBatches(num_samples, Shard(num_workers * batch_size, seed=seed))
    parts = [SampleBatches(num_samples, shard) for shard in shards(num_workers, batch_size, seed)]
    assert {part.steps_per_epoch for part in parts} == {whole.steps_per_epoch}
    together = torch.cat([part.indices(epoch) for part in parts], dim=1)
    assert torch.equal(together, whole.indices(epoch))
    assert together.unique().numel() == together.numel()  # disjoint, and no sample twice
    assert together.numel() > num_samples - num_workers * batch_size
    randoms = torch.cat([part.randoms(epoch, 3) for part in parts], dim=1)
    assert torch.equal(randoms, whole.randoms(epoch, 3))


def test_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        return SampleBatches(100, Shard(10, seed=seed)).indices(epoch)

    assert torch.equal(order(1, 2), order(1, 2))
    assert not torch.equal(order(1, 2), order(1, 3))
    assert not torch.equal(order(1, 2), order(2, 2))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    order(1, 2)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's numbers are not used


@given(st.integers(2, 600), COUNTS, COUNTS, st.integers(1, 9), st.integers(0, 3))
def test_streams_of_workers_are_the_rows_of_one(num_tokens, num_workers, batch_size, bptt, epoch):
    assume(num_tokens > num_workers * batch_size * bptt)
    tokens = (torch.arange(num_tokens) % 251).to(torch.uint8)
    whole = StreamBatches(tokens, bptt, Shard(num_workers * batch_size))
    parts = [StreamBatches(tokens, bptt, shard) for shard in shards(num_workers, batch_size)]
    expected = list(whole.windows(epoch))
    assert len(expected) == whole.steps_per_epoch
    found = [list(part.windows(epoch)) for part in parts]
    assert {len(windows) for windows in found} == {len(expected)}
    for step, window in enumerate(expected):
        ours = [windows[step] for windows in found]
        assert torch.equal(torch.cat([one.inputs for one in ours]), window.inputs)
        assert torch.equal(torch.cat([one.targets for one in ours]), window.targets)
        assert {one.first for one in ours} == {window.first} == {step == 0}


@given(st.integers(10, 300), COUNTS, st.integers(1, 9), st.integers(0, 3))
def test_streams_are_contiguous_and_disjoint(num_tokens, batch_size, bptt, epoch):
    assume(num_tokens > batch_size * bptt)
    assume(num_tokens <= 256)
    tokens = torch.arange(num_tokens).to(torch.uint8)  # so that a token is its position
    batches = StreamBatches(tokens, bptt, Shard(batch_size))
    windows = list(batches.windows(epoch))
    rows = torch.cat([window.inputs for window in windows], dim=1).to(torch.int64)
    targets = torch.cat([window.targets for window in windows], dim=1)
    assert torch.equal(targets, rows + 1)
    assert torch.equal(rows.flatten(), rows[0, 0] + torch.arange(rows.numel()))
    assert num_tokens - 1 - rows.numel() < batch_size * bptt  # no step is lost


def test_epochs_begin_at_other_offsets():
    tokens = torch.arange(250).to(torch.uint8)
    batches = StreamBatches(tokens, 20, Shard(3))
    starts = {int(next(batches.windows(epoch)).inputs[0, 0]) for epoch in range(20)}
    assert len(starts) > 3


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ({"batch_size": 0}, "batch_size 0, expected at least 1"),
        ({"batch_size": 1, "rank": 2, "num_workers": 2}, "rank 2, expected 0 to 1"),
        ({"batch_size": 1, "rank": -1}, "rank -1"),
        ({"batch_size": 1, "seed": -1}, "seed -1, expected at least 0"),
    ],
)
def test_impossible_shards_are_refused(numbers, complaint):
    with pytest.raises(ValueError, match=complaint):
        Shard(**numbers)


def test_too_little_data_is_refused():
    with pytest.raises(ValueError, match="7 samples, 2 workers x batch 4 need more"):
        SampleBatches(7, Shard(4, 0, 2))
    tokens = torch.zeros(24, dtype=torch.uint8)
    with pytest.raises(ValueError, match="24 tokens, 2 workers x batch 4 x bptt 3 need more"):
        StreamBatches(tokens, 3, Shard(4, 0, 2))
    with pytest.raises(ValueError, match="bptt 0"):
        StreamBatches(tokens, 0, Shard(1))


def by_hand(image, top, left, *, flip, padding=4):
    padded = torch.nn.functional.pad(image, (padding,) * 4)
    cropped = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return cropped.flip(2) if flip else cropped


@given(st.integers(1, 4), st.integers(1, 3), st.integers(4, 7), st.integers(4, 7), COUNTS)
def test_crop_flip_is_a_shift_and_a_mirror(num_images, channels, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, channels, height, width)
    images = torch.randint(256, shape, generator=generator).to(torch.uint8)
    randoms = torch.rand(num_images, CROP_FLIP_RANDOMS, generator=generator)
    found = crop_flip(images, randoms)
    assert found.dtype == torch.uint8
    for image, (top, left, mirror), result in zip(images, randoms.tolist(), found, strict=True):
        expected = by_hand(image, int(top * 9), int(left * 9), flip=mirror < 0.5)
        assert torch.equal(result, expected)


def test_crop_flip_of_the_middle_changes_nothing():
    images = torch.randint(256, (2, 1, 5, 5)).to(torch.uint8)
    middle = torch.tensor([[0.5, 0.5, 0.9]] * 2)
    assert torch.equal(crop_flip(images, middle), images)
