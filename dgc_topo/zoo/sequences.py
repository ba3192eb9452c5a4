"""Models of sequences: the LSTMs of the DGC paper, BERT-large as it is pre-trained, GPT-2 medium.

Both transformers are 24 blocks of width 1024.  Attention counts its scores and weighted sums over
all pairs of positions, as implementations without a fused causal kernel compute them.
"""

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


_WIDTH, _BLOCKS = 1024, 24


def bert_large() -> Model:
    """Return BERT-large, uncased, with both heads of its pre-training: 336,226,108 parameters.

    Sequences of 128 tokens (phase 1), the head of masked words at every position.  Without the
    heads it has 335,141,888.  Architecture: Devlin et al., arXiv:1810.04805; shapes as
    google-research/bert and Hugging Face ``BertForPreTraining``, vocabulary 30,522.
    """
    words, length = 30_522, 128
    tables = ((words, _WIDTH), (512, _WIDTH), (2, _WIDTH))  # words, positions, segments
    layers = [normalised(Layer("embeddings", "embedding", tables, 0), _WIDTH)]
    for block in range(_BLOCKS):
        query_key_value, out, into_mlp, out_mlp = _block(f"block{block + 1}", length, split=True)
        layers += [query_key_value, normalised(out, _WIDTH), into_mlp, normalised(out_mlp, _WIDTH)]
    layers += [
        linear("pooler", _WIDTH, _WIDTH),
        linear("next_sentence", _WIDTH, 2),
        normalised(linear("transform", _WIDTH, _WIDTH, positions=length), _WIDTH),
        _tied_head("masked_words", words, length),
    ]
    return Model(
        name="bert-large",
        summary="BERT-large, pre-training phase 1, sequences of 128 (Devlin et al. 2018)",
        layers=tuple(layers),
        compute=_bert_time(),
        batch_size=32,
        item="sequences",
        samples="sequences",
    )


def gpt2_medium() -> Model:
    """Return GPT-2 medium, sequences of 1024 tokens: 354,823,168 parameters.

    Architecture: Radford et al. 2019; shapes as openai/gpt-2 and Hugging Face ``gpt2-medium``,
    vocabulary 50,257, output embedding tied to the input's.
    """
    words, length = 50_257, 1024
    layers = [Layer("embeddings", "embedding", ((words, _WIDTH), (length, _WIDTH)), 0)]
    for block in range(_BLOCKS):
        query_key_value, out, into_mlp, out_mlp = _block(f"block{block + 1}", length, split=False)
        layers += [normalised(query_key_value, _WIDTH), out, normalised(into_mlp, _WIDTH), out_mlp]
    head = Layer("head", "linear", (), 2 * words * _WIDTH * length)
    layers.append(normalised(head, _WIDTH))
    return Model(
        name="gpt2-medium",
        summary="GPT-2 medium, sequences of 1024 (Radford et al. 2019)",
        layers=tuple(layers),
        compute=_gpt2_time(),
        batch_size=4,
        item="sequences",
        samples="tokens",
        samples_per_item=length,
    )


def _block(name: str, length: int, *, split: bool) -> tuple[Layer, Layer, Layer, Layer]:
    """Return attention (queries, keys and values; output) and MLP (up; down), not normalised.

    Args:
        name: Of the block.
        length: Positions of a sequence.
        split: Whether queries, keys and values have a tensor each.
    """
    parts, rows = (3, _WIDTH) if split else (1, 3 * _WIDTH)
    products = 2 * 3 * _WIDTH * _WIDTH * length
    scores = 2 * 2 * _WIDTH * length * length
    tensors = ((rows, _WIDTH), (rows,)) * parts
    return (
        Layer(f"{name}.attention.qkv", "attention", tensors, products + scores),
        linear(f"{name}.attention.out", _WIDTH, _WIDTH, positions=length, kind="attention"),
        linear(f"{name}.mlp.up", _WIDTH, 4 * _WIDTH, positions=length, kind="mlp"),
        linear(f"{name}.mlp.down", 4 * _WIDTH, _WIDTH, positions=length, kind="mlp"),
    )


def _tied_head(name: str, words: int, length: int) -> Layer:
    """Return the product with the embedding of words, of which only the bias is its own."""
    return Layer(name, "linear", ((words,),), 2 * words * _WIDTH * length)


def _bert_time() -> ComputeTime:
    source = (
        "NVIDIA/DeepLearningExamples, PyTorch/LanguageModeling/BERT/README.md (commit 23a6382), "
        "'Pre-training NVIDIA DGX-1 With 32G', container pytorch:19.07-py3: 1 GPU, batch size / "
        "GPU (FP32) 32, sequence length 128, throughput - FP32 40.32 sequences/sec (mixed "
        "precision at batch 64: 171.52), averaged over an entire training epoch; its recipe "
        "accumulates many batches per update"
    )
    return ComputeTime(
        points=((32, 32 / 40.32),),
        hardware="one NVIDIA V100 32 GB of a DGX-1",
        precision="fp32",
        origin="published",
        source=source,
    )


def _gpt2_time() -> ComputeTime:
    source = (
        "FlagOpen/FlagPerf, training/nvidia/gpt2-pytorch/README.md, megatron-gpt2-345m: 'A100 "
        "1x1', precision fp32, p_core 14.2 samples/s (seq_length=1024), PyTorch 1.12.0a0; batch "
        "4 (its config: train_batch_size 4, 8 batches accumulated per update). That is 35 "
        "TFLOPS, above the A100's 19.5 in fp32, so TF32 must have been on; words padded to 50,304"
    )
    return ComputeTime(
        points=((4, 4 / 14.2),),
        hardware="one NVIDIA A100-SXM4 40 GB",
        precision="fp32 tensors, TF32 products",
        origin="published",
        source=source,
    )
