"""Models: their size, their start, and what they refuse."""

import pytest
import torch

from dgc_topo.training.data import ImageDataset, TensorImages, TextDataset, Vocabulary
from dgc_topo.training.models import build_model, model_names, model_options, running_statistics
from dgc_topo.training.models.architectures import CharLstm, ResNet, detach


def images(channels=1, side=28, num_classes=10):
    part = TensorImages(
        torch.zeros(num_classes, channels, side, side, dtype=torch.uint8), torch.arange(num_classes)
    )
    names = tuple(map(str, range(num_classes)))
    return ImageDataset("toy", part, part, names, (0.5,) * channels, (0.25,) * channels)


def text(num_tokens=81):
    tokens = torch.zeros(9, dtype=torch.uint8)
    return TextDataset(
        "toy", tokens, tokens, Vocabulary("".join(map(chr, range(40, 40 + num_tokens))))
    )


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "dataset", "parameters"),
    [
        ("mlp", images(), 784 * 32 + 32 + 320 + 10),
        ("cnn", images(), 105_866),
        ("resnet20", images(3, 32), 269_722),  # 0.27 M in table 6 of the paper
        ("resnet56", images(3, 32), 853_018),  # 0.85 M
        ("resnet110", images(3, 32), 1_727_962),  # 1.7 M
        ("char-lstm", text(), 247_057),
    ],
)
def test_parameter_counts(name, dataset, parameters):
    assert size(build_model(name, dataset)) == parameters


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet20"])
@pytest.mark.parametrize(
    ("channels", "side", "num_classes"), [(1, 28, 10), (3, 32, 100), (3, 64, 7)]
)
def test_image_models_fit_any_images(name, channels, side, num_classes):
    dataset = images(channels, side, num_classes)
    logits = build_model(name, dataset)(dataset.normalise(dataset.train.images[:3]))
    assert logits.shape == (3, num_classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", model_names())
def test_seed_alone_decides_the_start(name):
    dataset = text() if name == "char-lstm" else images()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_model(name, dataset, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again = build_model(name, dataset, seed=3).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    other = build_model(name, dataset, seed=4).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_options_change_the_model():
    wide = build_model("cnn", images(), width=32)
    assert size(wide) > 2 * 100_000
    deep = build_model("char-lstm", text(), num_layers=3, hidden_size=32, dropout=0.5)
    assert isinstance(deep, CharLstm)
    assert deep.lstm.num_layers == 3
    assert model_options("char-lstm")["hidden_size"] == 128
    assert set(model_options("resnet20")) == {"width"}


@pytest.mark.parametrize(
    ("name", "dataset", "options", "complaint"),
    [
        ("vgg", images(), {}, "model 'vgg': expected one of char-lstm, cnn, mlp, resnet110"),
        ("char-lstm", images(), {}, "not for data set toy, expected one of cnn, mlp"),
        ("cnn", text(), {}, "not for data set toy, expected one of char-lstm"),
        ("cnn", images(), {"depth": 3}, "unknown option 'depth', expected some of width, hidden"),
        ("cnn", images(), {"width": 0}, "option width = 0, expected an integer of at least 1"),
        ("cnn", images(), {"width": True}, "option width = True"),
        ("cnn", images(), {"width": "wide"}, "option width = 'wide'"),
        ("char-lstm", text(), {"dropout": 1.0}, r"dropout = 1\.0, expected a number in \[0, 1\)"),
        ("char-lstm", text(), {"recurrent_bias": 1}, "recurrent_bias = 1, expected true or false"),
        ("cnn", images(side=3), {}, "images of 3 x 3, expected at least 4 x 4"),
    ],
)
def test_what_does_not_fit_is_refused(name, dataset, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_model(name, dataset, **options)


def test_running_statistics_are_the_buffers_to_average():
    assert not running_statistics(build_model("cnn", images()))
    model = build_model("resnet20", images())
    assert isinstance(model, ResNet)
    statistics = running_statistics(model)
    assert len(statistics) == 2 * 19  # mean and variance of 19 normalisations
    model(torch.randn(4, 1, 28, 28))
    assert any(bool(value.any()) for value in statistics[::2])
    for value in statistics:
        value.fill_(2)  # averaging in place reaches the model
    assert float(model.first_norm.state_dict()["running_mean"][0]) == 2


def test_lstm_carries_its_state():
    """Two windows with the state carried are one long window."""
    model = build_model("char-lstm", text())
    tokens = torch.randint(81, (2, 10))
    whole, _ = model(tokens)
    first, state = model(tokens[:, :4])
    second, _ = model(tokens[:, 4:], detach(state))
    assert torch.allclose(torch.cat([first, second], dim=1), whole, atol=1e-6)
    assert state[0].requires_grad
    assert not any(part.requires_grad for part in detach(state))


def test_lstm_forget_gates_start_open():
    model = build_model("char-lstm", text(), hidden_size=8)
    assert isinstance(model, CharLstm)
    for layer in range(2):
        gates = model.lstm.get_parameter(f"bias_ih_l{layer}").view(4, 8).mean(1)
        assert gates.argmax() == 1
        assert gates[1] > 0.5


def test_lstm_without_recurrent_biases_has_only_the_classifiers():
    """So the share of what travels dense is as small as in a large language model."""
    model = build_model("char-lstm", text(), recurrent_bias=False)
    flat = [name for name, p in model.named_parameters() if p.dim() == 1]
    assert flat == ["classifier.bias"]
