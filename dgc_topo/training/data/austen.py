"""The six novels of Jane Austen, shipped inside the package: four million characters.

Public domain.  One vocabulary of 81 characters is fixed here, so that a model and its tokens
never depend on what was read.  The end of *every* novel is kept for validation, because the
novels differ: the last one alone would measure something else.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from dgc_topo.training.data.dataset import TextDataset, Vocabulary
from dgc_topo.training.data.dataset_files import DataError, check_sha256, read_unpacked

NAME = "austen"
PATH = Path(__file__).parent / "assets" / "austen.txt.xz"
#: Of the novels joined by newlines, in UTF-8.
SHA256 = "b41e5a7995636f39e632619f119f662f7da514def09fccc7fbcee1c30e1a085b"
VOCABULARY = Vocabulary(
    "\n !\"&'()*,-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz£"
)
_VALIDATION_SHARE = 20  # one character in so many is validation


class Novel(NamedTuple):
    """A novel, in the order of the shipped text.

    Attributes:
        title: Its title.
        year: When it was first published.
        characters: Its length, without the newline that parts it from the next.
    """

    title: str
    year: int
    characters: int


NOVELS = (
    Novel("Emma", 1815, 883_027),
    Novel("Mansfield Park", 1814, 883_278),
    Novel("Northanger Abbey", 1817, 432_981),
    Novel("Persuasion", 1817, 466_853),
    Novel("Pride and Prejudice", 1813, 684_767),
    Novel("Sense and Sensibility", 1811, 673_687),
)


def read_novels() -> dict[str, str]:
    """Return the text of each novel by its title.

    Raises:
        DataError: if the shipped file is damaged.
    """
    content = read_unpacked(PATH)
    check_sha256(content, SHA256, f"{PATH.name}, unpacked")
    text = content.decode("utf-8")
    expected = sum(novel.characters + 1 for novel in NOVELS) - 1
    if len(text) != expected:
        raise DataError(f"{PATH.name}: {len(text)} characters, expected {expected}")
    novels: dict[str, str] = {}
    start = 0
    for novel in NOVELS:
        novels[novel.title] = text[start : start + novel.characters]
        start += novel.characters + 1
    return novels


def load_austen() -> TextDataset:
    """Return the novels as characters: of each the first 95 % to learn from, the rest to test.

    Raises:
        DataError: if the shipped file is damaged.
    """
    train, validation = [], []
    for text in read_novels().values():
        tokens = VOCABULARY.encode(text + "\n")
        cut = len(tokens) - len(tokens) // _VALIDATION_SHARE
        train.append(tokens[:cut])
        validation.append(tokens[cut:])
    return TextDataset(NAME, torch.cat(train), torch.cat(validation), VOCABULARY)
