"""A small character transformer for `local-steps.toml`: logits of the next character."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_BASE = 100.0  #: of the wavelengths by which positions turn


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and beside a shortcut.

    Args:
        width: Features, a multiple of twice the heads.
        num_heads: Heads of the attention.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, (batch, length, width)."""
        batch, length, width = features.shape
        heads = self.qkv(self.before_attention(features))
        heads = heads.view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(
            _turned(query), _turned(key), value, is_causal=True
        )
        features = features + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        perceptron: Tensor = self.down(functional.gelu(self.up(self.before_perceptron(features))))
        return features + perceptron


class CharacterTransformer(nn.Module):
    """A transformer that sees only what came before; rotary positions.

    Args:
        num_tokens: Size of the vocabulary: 81 characters in Austen's novels.
        width: Features.
        num_layers: Blocks.
        num_heads: Heads of the attention.
    """

    def __init__(
        self, num_tokens: int = 81, width: int = 96, num_layers: int = 2, num_heads: int = 4
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, width)
        self.blocks = nn.Sequential(*(Block(width, num_heads) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, shape (batch, length, num_tokens), of tokens (batch, length)."""
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(tokens))))
        return logits


def _turned(heads: Tensor) -> Tensor:
    """Return queries or keys, shape (..., length, size), turned by their positions."""
    length, size = heads.shape[-2:]
    half = torch.arange(size // 2, device=heads.device)
    places = torch.arange(length, device=heads.device)[:, None]
    angles = places * _BASE ** (-half / (size // 2))
    cos, sin = angles.cos(), angles.sin()
    one, other = heads.chunk(2, -1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], -1)
