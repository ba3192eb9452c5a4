"""Transformers: BERT-large as it is pre-trained, and GPT-2 medium.

Both are 24 blocks of width 1024.  Attention counts its scores and weighted sums over all pairs of
positions, as implementations without a fused causal kernel compute them.
"""

from __future__ import annotations

from dgc_topo.zoo.layers import linear, normalised
from dgc_topo.zoo.model import ComputeTime, Layer, Model

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
