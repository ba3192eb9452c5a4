"""The zoo's models: known totals, the DGC paper's ratios, operations, and sources."""

import subprocess
import sys

import pytest

from dgc_topo.zoo import known_models, load_model

TOTALS = {
    "alexnet": 60_965_224,  # Caffe's reference model of the grouped network
    "vgg16": 138_357_544,  # torchvision
    "resnet50": 25_557_032,  # torchvision
    "resnet20-cifar": 269_722,  # "0.27M", He et al. 2015, table 6
    "resnet56-cifar": 853_018,  # "0.85M", there
    "resnet110-cifar": 1_727_962,  # "1.7M", He et al. 2015, table 6
    "ptb-lstm": 66_034_000 - 15_000_000,  # Zaremba's 66 M with PyTorch's biases, less one embedding
    "deepspeech": 50_663_168,
    "bert-large": 336_226_108,  # Hugging Face BertForPreTraining
    "gpt2-small": 124_439_808,  # Hugging Face
    "gpt2-medium": 354_823_168,  # Hugging Face
    "vit-b16": 86_567_656,  # timm, torchvision
}

#: Multiplications with their additions of one forward pass, in units of 1e9.
FORWARD = {
    "alexnet": 0.724,
    "vgg16": 15.47,
    "resnet50": 3.86,  # He et al. 2015, table 1: 3.8
    "resnet20-cifar": 0.0406,  # commonly quoted: 0.041
    "resnet56-cifar": 0.1255,  # commonly quoted: 0.126
    "resnet110-cifar": 0.253,  # commonly quoted: 0.25
    "vit-b16": 17.56,  # torchvision: 17.56
}


def test_every_model_is_known_under_its_own_name():
    assert {name: load_model(name).name for name in known_models()} == {n: n for n in TOTALS}


@pytest.mark.parametrize("name", TOTALS)
def test_the_number_of_parameters_is_the_known_one(name):
    model = load_model(name)
    assert model.num_elements == TOTALS[name]
    assert model.num_elements == model.compressible_elements + model.dense_elements
    assert model.gradient_bytes == 4 * TOTALS[name]


@pytest.mark.parametrize(
    ("name", "ratio", "mebibytes"),
    [("resnet50", 277, 0.352), ("alexnet", 597, 0.389), ("ptb-lstm", 462, 0.4215)],
)
def test_the_papers_ratios_and_sizes_at_density_a_thousandth(name, ratio, mebibytes):
    model = load_model(name)
    size = model.dgc_bytes(0.001)
    assert model.gradient_bytes / size == pytest.approx(ratio, rel=2e-3)
    assert size / 2**20 == pytest.approx(mebibytes, rel=2e-3)


def test_the_papers_speech_ratio_is_not_that_of_five_lstm_layers():
    model = load_model("deepspeech")
    assert model.gradient_bytes / model.dgc_bytes(0.001) == pytest.approx(601.9, abs=0.1)


def test_bert_without_its_heads_is_the_plain_encoder():
    layers = load_model("bert-large").layers
    heads = {"next_sentence", "transform", "masked_words"}
    assert sum(layer.num_elements for layer in layers if layer.name not in heads) == 335_141_888


@pytest.mark.parametrize("name", FORWARD)
def test_operations_are_the_published_ones(name):
    assert load_model(name).flops / 2e9 == pytest.approx(FORWARD[name], rel=2e-3)


@pytest.mark.parametrize("name", ["bert-large", "gpt2-small", "gpt2-medium"])
def test_transformers_take_two_operations_per_weight_and_token_and_their_attention(name):
    model = load_model(name)
    length = 128 if name == "bert-large" else 1024
    words = 30_522 if name == "bert-large" else 50_257
    blocks, width = (12, 768) if name == "gpt2-small" else (24, 1024)
    weights = blocks * 12 * width**2 + words * width
    attention = blocks * 4 * width * length**2
    assert model.flops == pytest.approx(2 * weights * length + attention, rel=5e-3)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("alexnet", 2987),
        ("vgg16", 154),
        ("resnet50", 219),
        ("resnet110-cifar", 50_000 / 165),
        ("ptb-lstm", 10_500),
        ("bert-large", 40.32),
        ("gpt2-medium", 14.2 * 1024),
        ("vit-b16", 390.86),
    ],
)
def test_the_compute_time_is_the_sources_throughput(name, rate):
    model = load_model(name)
    assert model.batch_samples / model.compute_s == pytest.approx(rate)
    assert model.compute.origin == "published"


def test_the_derived_time_lies_between_its_slowest_and_fastest_rate_and_says_derived():
    model = load_model("deepspeech")
    assert model.compute.origin == "derived"
    assert model.compute.source.startswith("derived")
    for batch_size, fewest, most in ((16, 1.39e12, 8.89e12), (64, 3.46e12, 8.89e12)):
        operations = 3 * model.flops * batch_size
        assert operations / most < model.at_batch(batch_size).compute_s < operations / fewest


def test_gpt2_small_computes_as_fast_as_gpt2_medium_was_measured_to():
    small, medium = load_model("gpt2-small"), load_model("gpt2-medium")
    rates = [m.flops * m.batch_size / m.compute_s for m in (small, medium)]
    assert rates[0] == pytest.approx(rates[1])
    assert small.compute.origin == "derived"


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'resnet5': unknown \(did you mean 'resnet50'\?\)") as e:
        load_model("resnet5")
    assert all(name in str(e.value) for name in known_models())


def test_the_zoo_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from dgc_topo.zoo import load_model as m;"
    code += "print(m('resnet50').ready_times_s()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0
