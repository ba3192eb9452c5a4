"""Transformers: BERT-large as it is pre-trained, GPT-2 and ViT-B/16.

Attention counts its scores and weighted sums over all pairs of positions, as implementations
without a fused causal kernel compute them.
"""

from __future__ import annotations

from dgc_topo.zoo.layers import convolution, linear, normalised
from dgc_topo.zoo.model import ComputeTime, Layer, Model

_WIDTH, _BLOCKS = 1024, 24  #: of BERT-large and GPT-2 medium
_BASE_WIDTH, _BASE_BLOCKS = 768, 12  #: of GPT-2 small and ViT-B
_GPT2_WORDS, _GPT2_LENGTH = 50_257, 1024


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
        query_key_value, out, into_mlp, out_mlp = _block(
            f"block{block + 1}", _WIDTH, length, split=True
        )
        layers += [query_key_value, normalised(out, _WIDTH), into_mlp, normalised(out_mlp, _WIDTH)]
    layers += [
        linear("pooler", _WIDTH, _WIDTH),
        linear("next_sentence", _WIDTH, 2),
        normalised(linear("transform", _WIDTH, _WIDTH, positions=length), _WIDTH),
        _tied_head("masked_words", words, _WIDTH, length),
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
    return _gpt2("medium", _WIDTH, _BLOCKS, _gpt2_time(), batch_size=4)


def gpt2_small() -> Model:
    """Return GPT-2 small, sequences of 1024 tokens: 124,439,808 parameters.

    Architecture: Radford et al. 2019; shapes as Hugging Face ``gpt2``.
    """
    layers = _gpt2_layers(_BASE_WIDTH, _BASE_BLOCKS)
    return _gpt2("small", _BASE_WIDTH, _BASE_BLOCKS, _gpt2_small_time(layers), batch_size=8)


def _gpt2(size: str, width: int, blocks: int, compute: ComputeTime, batch_size: int) -> Model:
    return Model(
        name=f"gpt2-{size}",
        summary=f"GPT-2 {size}, sequences of {_GPT2_LENGTH} (Radford et al. 2019)",
        layers=_gpt2_layers(width, blocks),
        compute=compute,
        batch_size=batch_size,
        item="sequences",
        samples="tokens",
        samples_per_item=_GPT2_LENGTH,
    )


def _gpt2_layers(width: int, blocks: int) -> tuple[Layer, ...]:
    words, length = _GPT2_WORDS, _GPT2_LENGTH
    layers = [Layer("embeddings", "embedding", ((words, width), (length, width)), 0)]
    for block in range(blocks):
        query_key_value, out, into_mlp, out_mlp = _block(
            f"block{block + 1}", width, length, split=False
        )
        layers += [normalised(query_key_value, width), out, normalised(into_mlp, width), out_mlp]
    head = Layer("head", "linear", (), 2 * words * width * length)
    return (*layers, normalised(head, width))


def vit_b16() -> Model:
    """Return ViT-B/16, images of 224 x 224: 86,567,656 parameters.

    Architecture: Dosovitskiy et al., arXiv:2010.11929; shapes as timm ``vit_base_patch16_224``:
    196 patches and a class token.
    """
    width, patches = _BASE_WIDTH, 14 * 14
    length = patches + 1
    tokens = Layer("tokens", "embedding", ((1, 1, width), (1, length, width)), 0)
    layers = [tokens, convolution("patches", 3, width, (16, 16), (14, 14), bias=True)]
    for block in range(_BASE_BLOCKS):
        query_key_value, out, into_mlp, out_mlp = _block(
            f"block{block + 1}", width, length, split=False
        )
        layers += [normalised(query_key_value, width), out, normalised(into_mlp, width), out_mlp]
    layers.append(normalised(linear("head", width, 1000), width))
    return Model(
        name="vit-b16",
        summary="ViT-B/16, ImageNet, 224 x 224 (Dosovitskiy et al. 2020)",
        layers=tuple(layers),
        compute=_vit_time(),
        batch_size=192,
        item="images",
        samples="images",
    )


def _block(name: str, width: int, length: int, *, split: bool) -> tuple[Layer, Layer, Layer, Layer]:
    """Return attention (queries, keys and values; output) and MLP (up; down), not normalised.

    Args:
        name: Name of the block.
        width: Features of a position.
        length: Positions of a sequence.
        split: True if queries, keys and values have a tensor each.
    """
    parts, rows = (3, width) if split else (1, 3 * width)
    products = 2 * 3 * width * width * length
    scores = 2 * 2 * width * length * length
    tensors = ((rows, width), (rows,)) * parts
    return (
        Layer(f"{name}.attention.qkv", "attention", tensors, products + scores),
        linear(f"{name}.attention.out", width, width, positions=length, kind="attention"),
        linear(f"{name}.mlp.up", width, 4 * width, positions=length, kind="mlp"),
        linear(f"{name}.mlp.down", 4 * width, width, positions=length, kind="mlp"),
    )


def _tied_head(name: str, words: int, width: int, length: int) -> Layer:
    """Return the product with the embedding of words, of which only the bias is its own."""
    return Layer(name, "linear", ((words,),), 2 * words * width * length)


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


def _gpt2_small_time(layers: tuple[Layer, ...]) -> ComputeTime:
    """Return the operations of three passes at the rate that GPT-2 medium has in its source."""
    medium = gpt2_medium()
    sequences, seconds = medium.compute.points[0]
    flops_per_s = medium.flops * sequences / seconds
    small_flops = sum(layer.flops for layer in layers)
    source = (
        "derived, as many operations per second as GPT-2 medium: FlagOpen/FlagPerf, "
        "training/nvidia/gpt2-pytorch/README.md, 14.2 sequences/s on one A100 (see gpt2-medium); "
        "a narrower model is rather slower than that"
    )
    return ComputeTime(
        points=((8, 8 * small_flops / flops_per_s),),
        hardware="one NVIDIA A100-SXM4 40 GB",
        precision="fp32 tensors, TF32 products",
        origin="derived",
        source=source,
    )


def _vit_time() -> ComputeTime:
    source = (
        "huggingface/pytorch-image-models, results/"
        "benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv (commit 5e7d47c): "
        "vit_base_patch16_224, train_samples_per_sec 390.86, train_step_time 490.391 ms, "
        "train_batch_size 192, image size 224; the optimizer's step is inside"
    )
    return ComputeTime(
        points=((192, 192 / 390.86),),
        hardware="one NVIDIA RTX 3090",
        precision="mixed (AMP)",
        origin="published",
        source=source,
    )
