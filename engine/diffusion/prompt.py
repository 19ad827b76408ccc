"""Prompts with weights, longer than the text encoder's context: "(blue eyes:1.3)", "((sharp))", "[dull]".

The syntax and the arithmetic are those of the web UI whose pictures people know: round brackets multiply by 1.1, square
ones divide by it, "(words:1.3)" sets the factor; a backslash makes a bracket plain. Chunks of the context's length are
encoded one by one and laid end to end; weighted states keep the mean of the unweighted ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

STRESS = 1.1
_PIECE = re.compile(r"\\[()\[\]\\]|\(|\[|:\s*([+-]?\d*\.?\d+)\s*\)|\)|\]|[^\\()\[\]:]+|[:\\]")


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    """Pieces of text and the factor of each; neighbours of one factor are joined, unclosed brackets count as closed at
    the end."""
    pieces: list[tuple[str, float]] = []
    opened: list[tuple[str, int]] = []  # bracket and the piece that it opens before

    def stress(since: int, factor: float) -> None:
        pieces[since:] = [(text, weight * factor) for text, weight in pieces[since:]]

    for match in _PIECE.finditer(prompt):
        piece, number = match.group(0), match.group(1)
        if piece in "([":
            opened.append((piece, len(pieces)))
        elif number is not None and opened and opened[-1][0] == "(":
            stress(opened.pop()[1], float(number))
        elif piece in ")]" and opened and opened[-1][0] == "(["[")]".index(piece)]:
            stress(opened.pop()[1], STRESS if piece == ")" else 1 / STRESS)
        else:
            pieces.append((piece[1:] if len(piece) == 2 and piece[0] == "\\" else piece, 1.0))
    for bracket, since in reversed(opened):
        stress(since, STRESS if bracket == "(" else 1 / STRESS)
    return _joined(pieces)


@dataclass(frozen=True)
class Chunk:
    """As much of a prompt as the text encoder takes at once: ids (1, context), and the words' factors (context,) unless
    all are 1."""

    ids: torch.Tensor
    factors: torch.Tensor | None

    def to(self, device: torch.device) -> Chunk:
        return Chunk(self.ids.to(device), None if self.factors is None else self.factors.to(device))


def chunks(prompt: str, tokenizer: CLIPTokenizer) -> list[Chunk]:
    """The prompt in pieces; at least one."""
    room = tokenizer.model_max_length - 2  # without the begin and the end token
    tokens = _tokens(prompt, tokenizer)
    return [_chunk(tokens[at : at + room], tokenizer) for at in range(0, max(1, len(tokens)), room)]


def encode_chunks(pieces: Sequence[Chunk], encoder: CLIPTextModel) -> torch.Tensor:
    """(chunks x context, width) hidden states. Nothing here waits for the device."""
    return torch.cat([_weighed(encoder(piece.ids)[0][0], piece) for piece in pieces])


def encode(
    prompts: Sequence[str], tokenizer: CLIPTokenizer, states_of: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """(n, chunks x context, width) hidden states; every prompt is given as many chunks as the longest one needs.
    `states_of` makes hidden states (chunks, context, width) of ids (chunks, context), which are on the CPU."""
    each = [chunks(prompt, tokenizer) for prompt in prompts]
    most = max(len(own) for own in each)
    empty = _chunk([], tokenizer)
    pieces = [piece for own in each for piece in (*own, *[empty] * (most - len(own)))]
    states = states_of(torch.cat([piece.ids for piece in pieces]))
    weighed = [_weighed(own, piece.to(states.device)) for own, piece in zip(states, pieces, strict=True)]
    return torch.stack(weighed).reshape(len(prompts), -1, states.shape[-1])


def _joined(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    joined: list[tuple[str, float]] = []
    for text, weight in pieces:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined


def _tokens(prompt: str, tokenizer: CLIPTokenizer) -> list[tuple[int, float]]:
    return [
        (token, weight)
        for text, weight in parse_weights(prompt)
        for token in tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    ]


def _chunk(tokens: list[tuple[int, float]], tokenizer: CLIPTokenizer) -> Chunk:
    """Padded behind its end token."""
    padding = tokenizer.model_max_length - len(tokens) - 2
    ids = [tokenizer.bos_token_id, *(t for t, _ in tokens), tokenizer.eos_token_id]
    ids += [tokenizer.pad_token_id] * padding
    factors = torch.tensor([1.0, *(w for _, w in tokens), *[1.0] * (padding + 1)])
    return Chunk(torch.tensor([ids]), None if bool((factors == 1).all()) else factors)


def _weighed(states: torch.Tensor, piece: Chunk) -> torch.Tensor:
    """A chunk's hidden states (context, width), stressed as it says."""
    if piece.factors is None:
        return states
    stressed = states * piece.factors[:, None].to(states.dtype)
    return stressed * (states.mean() / stressed.mean())
