"""Character language model: an LSTM that carries its hidden state from window to window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LstmState = tuple[Tensor, Tensor]  # hidden and cell, each (num_layers, batch, hidden_size)


class CharLstm(nn.Module):
    """Embedding, LSTM, linear read-out.

    The defaults (2 layers of 128, embedding of 64 for 81 characters) have 0.25 million
    parameters.  Forget gates start open (bias 1), so that a gradient survives the first windows
    (Jozefowicz, Zaremba, Sutskever, "An Empirical Exploration of Recurrent Network
    Architectures", ICML 2015).

    Args:
        num_tokens: Size of the vocabulary.
        embedding_size: Numbers per token.
        hidden_size: Width of each layer.
        num_layers: Layers of the LSTM.
        dropout: Share of activations dropped between layers while training, in [0, 1).
        recurrent_bias: Whether the LSTM has biases.  In a small one they are so large a share of
            the parameters that, travelling dense, they would be most of what DGC sends.
    """

    def __init__(
        self,
        num_tokens: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        *,
        recurrent_bias: bool = True,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, embedding_size)
        self.lstm = nn.LSTM(
            embedding_size,
            hidden_size,
            num_layers,
            bias=recurrent_bias,
            batch_first=True,
            dropout=dropout,
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_tokens)
        with torch.no_grad():
            for layer in range(num_layers) if recurrent_bias else ():
                bias = self.lstm.get_parameter(f"bias_ih_l{layer}")
                bias[hidden_size : 2 * hidden_size] += 1  # gates are in the order i, f, g, o

    def forward(self, tokens: Tensor, state: LstmState | None = None) -> tuple[Tensor, LstmState]:
        """Return logits of the next token at every place, and the state to go on from.

        Args:
            tokens: int64, shape (batch, time).
            state: What the window before returned; None at the start of a text.

        Returns:
            Logits of shape (batch, time, num_tokens), and the state, still part of the graph:
            detach it before the next window.
        """
        hidden, state = self.lstm(self.embedding(tokens), state)
        return self.classifier(self.dropout(hidden)), state


def detach(state: LstmState) -> LstmState:
    """Return *state* cut off from the graph, so that gradients end at the window's edge."""
    hidden, cell = state
    return hidden.detach(), cell.detach()
