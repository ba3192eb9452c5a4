"""Tasks: one loop trains images and text, and N workers are one."""

import math

import pytest
import torch
from PIL import Image

from dgc_topo.training.data import (
    ImageDataset,
    Shard,
    TensorImages,
    TextDataset,
    Vocabulary,
    load_dataset,
)
from dgc_topo.training.models import ImageTask, Score, TextTask, make_task


@pytest.fixture(scope="module")
def subset():
    return load_dataset("fashion-mnist-subset")


@pytest.fixture(scope="module")
def novels():
    return load_dataset("austen")


@pytest.fixture(scope="module")
def small_text(novels):
    return TextDataset("small", novels.train[:20_000], novels.validation[:3_000], novels.vocabulary)


def train(task, steps, learning_rate, clip=math.inf):
    model = task.build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    losses: list[float] = []
    epoch = 0
    while len(losses) < steps:
        for batch in task.batches(epoch):
            optimizer.zero_grad()
            loss = task.loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
        epoch += 1
    return model, losses


def test_cnn_learns_the_subset(subset):
    """One epoch of one worker: far above chance, and evaluation in parts is evaluation."""
    task = make_task(subset, "cnn", Shard(64))
    model, _ = train(task, task.steps_per_epoch, 0.05)
    score = task.evaluate(model)
    assert score.metric == "accuracy"
    assert score.count == 2_000
    assert score.value > 0.75
    parts = [task.evaluate(model, part=part, num_parts=3) for part in range(3)]
    assert sum(parts[1:], parts[0]) == score
    assert task.evaluate(model, max_batches=2).count == 500
    assert model.training


def test_lstm_learns_the_novels(novels):
    task = make_task(novels, "char-lstm", Shard(16), options={"bptt": 32, "hidden_size": 32})
    model, losses = train(task, 150, 2.0, clip=0.25)
    assert losses[0] == pytest.approx(math.log(81), abs=0.2)
    score = task.evaluate(model, max_batches=2)
    assert score.metric == "perplexity"
    assert 5 < score.value < 21  # better than letter frequencies alone
    assert task.batch_samples == 16 * 32


def gradients(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(
    ("model_name", "options"),
    [("cnn", {}), ("mlp", {"augment": True}), ("char-lstm", {"bptt": 8, "hidden_size": 16})],
)
def test_gradients_of_workers_average_to_those_of_one(subset, small_text, model_name, options):
    """The property that makes data-parallel training exact, over steps with carried state."""
    dataset = small_text if model_name == "char-lstm" else subset

    def steps(shard):
        task = make_task(dataset, model_name, shard, options=options)
        model = task.build_model()
        for _, batch in zip(range(3), task.batches(epoch=1), strict=False):
            model.zero_grad()
            task.loss(model, batch).backward()
            yield gradients(model)

    alone = steps(Shard(12, seed=5))
    workers = [steps(Shard(4, rank, 3, seed=5)) for rank in range(3)]
    for expected, *parts in zip(alone, *workers, strict=True):
        assert torch.allclose(torch.stack(parts).mean(0), expected, atol=1e-6)


def test_text_evaluation_in_parts_is_evaluation(small_text):
    task = make_task(small_text, "char-lstm", Shard(4), options={"hidden_size": 8})
    model = task.build_model()
    score = task.evaluate(model)
    assert score.count == (3_000 - 1) // 64 * 64
    for num_parts in (2, 5, 70):
        parts = [task.evaluate(model, part=part, num_parts=num_parts) for part in range(num_parts)]
        total = sum(parts[1:], parts[0])
        assert total.count == score.count
        assert total.value == pytest.approx(score.value, rel=1e-5)


def test_text_evaluation_carries_state(small_text):
    """A model asked window by window must do as well as one that reads each stream at once."""
    text = TextDataset("t", small_text.train, small_text.train[:16_001], small_text.vocabulary)
    task = make_task(text, "char-lstm", Shard(4), options={"hidden_size": 8})
    model = task.build_model()
    streams = text.validation[:16_000].to(torch.int64).view(64, 250)
    targets = text.validation[1:16_001].to(torch.int64).view(64, 250)
    with torch.no_grad():
        logits, _ = model(streams)
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert task.evaluate(model).value == pytest.approx(math.exp(nats), rel=1e-5)


def test_evaluation_leaves_the_hidden_state_of_training_alone(small_text):
    def losses(*, evaluate):
        task = make_task(small_text, "char-lstm", Shard(4), options={"hidden_size": 8})
        model = task.build_model()
        for _, batch in zip(range(4), task.batches(0), strict=False):
            yield task.loss(model, batch).item()
            if evaluate:
                task.evaluate(model, max_batches=1)

    assert list(losses(evaluate=True)) == list(losses(evaluate=False))


def test_the_same_seed_gives_the_same_run(subset):
    runs = [train(make_task(subset, "mlp", Shard(32, seed=9)), 20, 0.05)[1] for _ in range(2)]
    assert runs[0] == runs[1]
    other = train(make_task(subset, "mlp", Shard(32, seed=8)), 20, 0.05)[1]
    assert other != runs[0]


def test_augmented_batches_differ_from_epoch_to_epoch(subset):
    task = make_task(subset, "mlp", Shard(len(subset.train)), options={"augment": True})
    plain = make_task(subset, "mlp", Shard(len(subset.train)))
    batch, as_is = next(task.batches(0)), next(plain.batches(0))
    assert torch.equal(batch.targets, as_is.targets)
    assert not torch.equal(batch.inputs, as_is.inputs)
    assert torch.equal(batch.inputs, next(task.batches(0)).inputs)


def test_scores():
    assert Score("accuracy", 3, 4).value == 0.75
    assert Score("perplexity", 2 * math.log(5), 2).value == pytest.approx(5)
    assert Score("perplexity", 1e9, 2).value == math.inf
    assert math.isnan(Score("accuracy", 0, 0).value)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"model_name": "char-lstm"}, "not for data set"),
        ({"model_name": "lstm"}, "expected one of"),
        ({"options": {"bptt": 8}}, "unknown option 'bptt'"),
        ({"options": {"augment": 1}}, "option augment = 1, expected bool"),
        ({"shard": Shard(6_000, 0, 2)}, "10000 samples, 2 workers x batch 6000 need more"),
    ],
)
def test_impossible_tasks_are_refused(subset, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_task(**({"dataset": subset, "model_name": "cnn", "shard": Shard(4)} | arguments))


def test_evaluation_refuses_impossible_parts(subset):
    task = make_task(subset, "mlp", Shard(4))
    model = task.build_model()
    with pytest.raises(ValueError, match="part 2, expected 0 to 1"):
        task.evaluate(model, part=2, num_parts=2)
    with pytest.raises(ValueError, match="max_batches 0"):
        task.evaluate(model, max_batches=0)


def test_tasks_say_what_they_are(subset, small_text):
    picture = make_task(subset, "mlp", Shard(4))
    words = make_task(small_text, "char-lstm", Shard(4))
    assert isinstance(picture, ImageTask)
    assert isinstance(words, TextTask)
    assert (picture.metric, picture.higher_is_better) == ("accuracy", True)
    assert (words.metric, words.higher_is_better) == ("perplexity", False)
    assert (picture.batch_samples, words.batch_samples) == (4, 4 * 64)
    assert words.steps_per_epoch == 19_999 // 256


def test_image_size_is_an_option_of_the_image_folder(tmp_path):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            Image.new("RGB", (20, 16)).save(folder / "0.png")
    task = make_task("image-folder", "cnn", Shard(2), root=tmp_path, options={"image_size": 8})
    assert next(task.batches(0)).inputs.shape == (2, 3, 8, 8)
    assert task.evaluate(task.build_model()).count == 2
    with pytest.raises(ValueError, match="image_size = 'big', expected int"):
        make_task("image-folder", "cnn", Shard(2), root=tmp_path, options={"image_size": "big"})
    with pytest.raises(ValueError, match="austen: takes no image_size"):
        make_task("austen", "char-lstm", Shard(2), options={"image_size": 8})


def test_one_image_per_class_is_enough():
    part = TensorImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    dataset = ImageDataset("tiny", part, part, ("a", "b"), (0.5,), (0.5,))
    task = make_task(dataset, "cnn", Shard(1, 1, 2))
    model, losses = train(task, 3, 0.1)
    assert len(losses) == 3
    assert 0 <= task.evaluate(model).value <= 1


def test_two_tokens_of_validation_are_one_prediction():
    tokens = torch.zeros(9, dtype=torch.uint8)
    task = make_task(
        TextDataset("tiny", tokens, tokens[:2], Vocabulary("ab")),
        "char-lstm",
        Shard(1),
        options={"bptt": 4},
    )
    assert task.evaluate(task.build_model()).count == 1
