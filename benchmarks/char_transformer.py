"""A small character transformer, and virtual workers that learn Austen with it."""

from __future__ import annotations

import math
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dgc_topo.training.data.austen import load_austen

CONTEXT = 64
_PIECE = 4096  # characters that are dealt to the workers at once
_ROTARY_BASE = 100.0
_EVALUATED = 256  # windows of the validation text
_EVALUATED_AT_ONCE = 64


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and beside a shortcut; rotary positions.

    Args:
        width: Features, a multiple of twice the heads.
        num_heads: Heads of the attention.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.before_perceptron = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, (batch, length, width)."""
        batch, length, width = features.shape
        heads = self.qkv(self.before_attention(features))
        heads = heads.view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(
            _rotated(query), _rotated(key), value, is_causal=True
        )
        features = features + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        hidden = functional.gelu(self.up(self.before_perceptron(features)))
        return cast("Tensor", features + self.down(hidden))


class CharTransformer(nn.Module):
    """Logits of the next character; a million parameters with the defaults and 81 characters.

    Args:
        num_tokens: Size of the vocabulary.
        width: Features.
        num_layers: Blocks.
        num_heads: Heads per block.
    """

    def __init__(
        self, num_tokens: int, width: int = 168, num_layers: int = 3, num_heads: int = 4
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, width)
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_tokens, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name:
                scale = 0.3 if "out" in name or "down" in name else 1.0
                nn.init.normal_(parameter, std=scale / math.sqrt(parameter.shape[1]))
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, shape (batch, length, num_tokens), of tokens (batch, length)."""
        features = self.embedding(tokens)
        for block in self.blocks:
            features = block(features)
        return cast("Tensor", self.head(self.norm(features)))


@cache
def _angles(length: int, size: int) -> tuple[Tensor, Tensor]:
    frequencies = _ROTARY_BASE ** (-torch.arange(size // 2) / (size // 2))
    angles = torch.arange(length)[:, None] * frequencies
    return angles.cos(), angles.sin()


def _rotated(heads: Tensor) -> Tensor:
    """Return queries or keys, shape (..., length, size), turned by their positions."""
    cos, sin = _angles(*heads.shape[-2:])
    one, other = heads.chunk(2, -1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], -1)


class Workers:
    """Virtual workers: one model in memory, and for each worker text and random numbers of its own.

    The text is cut into pieces, shuffled and dealt in turn, so that all shards are alike.

    Args:
        num_workers: N.
        seed: Seed of the weights, the shards and the batches.
        batch: Windows of all workers together in a step, a multiple of N.
    """

    def __init__(self, num_workers: int, seed: int, batch: int) -> None:
        if batch % num_workers:
            raise ValueError(f"workers: batch {batch}, expected a multiple of {num_workers}")
        torch.manual_seed(seed)
        text = load_austen()
        self.model = CharTransformer(len(text.vocabulary))
        self.parameters = dict(self.model.named_parameters())
        self.num_workers = num_workers
        self._batch = batch // num_workers
        whole = text.train[: len(text.train) // _PIECE * _PIECE].view(-1, _PIECE)
        dealt = whole[torch.randperm(len(whole), generator=_generator(seed))]
        self._shards = [dealt[rank::num_workers].reshape(-1) for rank in range(num_workers)]
        self._generators = [_generator(1000 * seed + rank) for rank in range(num_workers)]
        self._validation = _windows(text.validation, _EVALUATED, _generator(7))

    def differentiate(self, rank: int) -> None:
        """Put the gradient of *rank*'s next batch at the model's parameters into ``.grad``."""
        given, expected = _windows(self._shards[rank], self._batch, self._generators[rank])
        self.model.zero_grad(set_to_none=True)
        self._loss(given, expected).backward()  # type: ignore[no-untyped-call]  # by torch

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients by name; the next `differentiate` makes new ones."""
        return {n: p.grad for n, p in self.parameters.items() if p.grad is not None}

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Return nats per character over the validation windows, the same in every run."""
        parts = zip(*(torch.split(w, _EVALUATED_AT_ONCE) for w in self._validation), strict=True)
        losses = [float(self._loss(given, expected)) for given, expected in parts]
        return sum(losses) / len(losses)

    def _loss(self, given: Tensor, expected: Tensor) -> Tensor:
        return functional.cross_entropy(self.model(given).flatten(0, 1), expected.flatten())


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _windows(text: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return random windows and the same one character later, shape (count, CONTEXT)."""
    starts = torch.randint(len(text) - CONTEXT - 1, (count, 1), generator=generator)
    places = starts + torch.arange(CONTEXT + 1)
    windows = text[places].long()
    return windows[:, :-1], windows[:, 1:]
