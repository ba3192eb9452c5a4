"""Recurrent models: the LSTMs of the DGC paper."""

from __future__ import annotations

from dgc_topo.zoo.layers import convolution, linear, lstm, normalised
from dgc_topo.zoo.model import ComputeTime, Layer, Model

_WORDS, _UNITS, _STEPS = 10_000, 1500, 35


def ptb_lstm() -> Model:
    """Return the word-level model of the Penn Treebank: 51,034,000 parameters.

    Two layers of 1500 units as Zaremba et al. (arXiv:1409.2329) "large" (66 M parameters), with
    input and output embedding tied as Press and Wolf (arXiv:1608.05859).  Tied is what the DGC
    paper trained: only then is the gradient 194.7 MiB, compressed 0.4215 MiB and the ratio 462
    (untied: 496), and its baseline perplexity, 72.30, is the one that the PyTorch example
    ``word_language_model`` states for ``--emsize 1500 --nhid 1500 --dropout 0.65 --tied``.
    """
    layers = (
        Layer("embedding", "embedding", ((_WORDS, _UNITS),), 0),
        lstm("lstm1", _UNITS, _UNITS, steps=_STEPS),
        lstm("lstm2", _UNITS, _UNITS, steps=_STEPS),
        # The product with the tied embedding, of which only the bias is a parameter of its own.
        Layer("softmax", "linear", ((_WORDS,),), 2 * _WORDS * _UNITS * _STEPS),
    )
    source = (
        "tensorflow/models pull request 2276 (August 2017), PTB tutorial, rnn_mode CUDNN, config "
        "'large' (2 x 1500, batch_size 20, num_steps 35): 10.5k words/s, 'Benchmarking platform: "
        "E5-2690 v4, Titan X'. Maxwell or Pascal is not said; embeddings were untied and looked "
        "up on the CPU, the matrix products are the same"
    )
    return Model(
        name="ptb-lstm",
        summary="LSTM language model, 2 x 1500, 10,000 words, tied (Zaremba et al. 2014)",
        layers=layers,
        compute=ComputeTime(
            points=((20, 20 * _STEPS / 10_500),),
            hardware="one NVIDIA Titan X",
            precision="fp32",
            origin="published",
            source=source,
        ),
        batch_size=20,
        item="sequences",
        samples="tokens",
        samples_per_item=_STEPS,
    )


def deepspeech() -> Model:
    """Return the LSTM version of Deep Speech 2 on LibriSpeech: 50,663,168 parameters.

    Seven hidden layers: two convolutions and five bidirectional LSTM layers of 800 units, whose
    directions are added; 29 characters; 12.3 s of speech at 16 kHz, the mean of LibriSpeech's
    960.9 hours in 281,241 utterances.  Architecture: SeanNaren/deepspeech.pytorch, ``model.py``
    of 26 October 2017 (commit dfa795c) with ``--rnn_type lstm``: no biases in the LSTM, no
    padding in the convolutions.

    The DGC paper's numbers for LibriSpeech are inconsistent: its 0.74 MB mean a gradient of
    488 MB and 660x, its table says 608x, and these layers have 193.3 MiB and 601.9x.
    """
    frames = 1230  # 12.3 s, a window every 10 ms
    steps = ((frames - 11) // 2 + 1) - 10
    layers = [
        normalised(convolution("conv1", 1, 32, (41, 11), (61, steps + 10), bias=True), 32),
        normalised(convolution("conv2", 32, 32, (21, 11), (21, steps), bias=True), 32),
    ]
    into = 32 * 21
    for number in range(1, 6):
        layer = lstm(f"lstm{number}", into, 800, steps=steps, directions=2, bias=False)
        # Batch normalisation precedes all of them but the first.
        layers.append(layer if number == 1 else normalised(layer, into))
        into = 800
    layers.append(normalised(linear("fc", into, 29, bias=False, positions=steps), into))
    return Model(
        name="deepspeech",
        summary="Deep Speech 2 with 5 x 800 bidirectional LSTM, LibriSpeech (Amodei et al. 2015)",
        layers=tuple(layers),
        compute=_deepspeech_time(layers),
        batch_size=64,
        item="utterances",
        samples="utterances",
    )


def _deepspeech_time(layers: list[Layer]) -> ComputeTime:
    """Return operations over rates: three passes over convolutions, input and recurrent products.

    A bidirectional layer of 800 units has weights of (3200, inputs) and (3200, 800) twice, so
    the recurrent share of its operations is that of the square weights.
    """
    convolutions = sum(layer.flops for layer in layers if layer.kind == "convolution")
    recurrent = sum(_recurrent_flops(layer) for layer in layers if layer.kind == "lstm")
    products = sum(layer.flops for layer in layers) - convolutions - recurrent
    recurrent_rates = {  # batch size: operations of forward and both backward passes per second
        16: 3 * 2 * 4 * 1024**2 * 16 * 25 / 7.236e-3,
        64: 3 * 2 * 4 * 1024**2 * 64 * 25 / 11.204e-3,
    }
    points = [
        (size, 3 * size * (convolutions / 3.466e12 + products / 8.885e12 + recurrent / rate))
        for size, rate in recurrent_rates.items()
    ]
    source = (
        "derived, no timing of this model was found: three times the forward operations at rates "
        "of baidu-research/DeepBench, results/train/DeepBench_NV_P100.xlsx, FP32: LSTM of 1024 "
        "units, 25 steps, without the input product, forward and backward: 7.236 ms at batch 16, "
        "11.204 ms at 64 (1.39, 3.59 TFLOPS); convolution 341 x 79 x 32, batch 32: 17.655 ms "
        "(3.47 TFLOPS); matrix product 3072 x 24000 x 1024: 8.89 TFLOPS"
    )
    return ComputeTime(
        points=tuple(points),
        hardware="one NVIDIA Tesla P100",
        precision="fp32",
        origin="derived",
        source=source,
    )


def _recurrent_flops(layer: Layer) -> float:
    inputs, recurrent = layer.tensors[:2]
    return layer.flops * recurrent[1] / (inputs[1] + recurrent[1])
