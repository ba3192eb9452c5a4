"""A small character transformer for `local-steps.toml`: logits of the next character."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CharacterTransformer(nn.Module):
    """A transformer that sees only what came before; learnt positions.

    Args:
        num_tokens: Size of the vocabulary: 81 characters in Austen's novels.
        width: Features.
        num_layers: Blocks.
        num_heads: Heads of the attention.
        context: Most characters of a window.
    """

    def __init__(
        self,
        num_tokens: int = 81,
        width: int = 96,
        num_layers: int = 2,
        num_heads: int = 4,
        context: int = 128,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, width)
        self.position = nn.Parameter(0.02 * torch.randn(context, width))
        block = nn.TransformerEncoderLayer(
            width, num_heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, num_layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, num_tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, shape (batch, length, num_tokens), of tokens (batch, length)."""
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        features = self.embedding(tokens) + self.position[:length]
        logits: Tensor = self.head(self.blocks(features, mask=mask, is_causal=True))
        return logits
