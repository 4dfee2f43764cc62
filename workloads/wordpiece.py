"""BERT's tokeniser: text to numbers of word pieces (Devlin et al., arXiv 1810.04805; Wu et al., arXiv 1609.08144).

Uncased: text is lowered and loses its accents; words end at white space, and every punctuation mark and every Chinese
character is a word of its own. A word is cut into the longest pieces of the vocabulary from its begin on; pieces after
the first are written ``##…``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PADDING, UNKNOWN, BEGIN, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
LONGEST_WORD = 100  # characters; longer ones are unknown


def read_vocabulary(path: Path) -> dict[str, int]:
    """Pieces by their line in ``vocab.txt``."""
    return {piece: number for number, piece in enumerate(path.read_text(encoding="utf-8").splitlines())}


def words(text: str) -> Iterator[str]:
    """Words and punctuation marks of a text, lowered and without accents."""
    word = ""
    for character in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(character)
        if kind == "Mn" or character == "\ufffd" or (kind.startswith("C") and character not in "\t\n\r"):
            continue
        is_mark = kind.startswith("P") or (character.isascii() and not character.isalnum() and character.isprintable())
        is_space = kind.startswith("Z") or character in "\t\n\r"
        if is_space or is_mark or _is_chinese(character):
            if word:
                yield word
            word = ""
            if not is_space:
                yield character
        else:
            word += character
    if word:
        yield word


def pieces(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """Cut a word into pieces of the vocabulary, longest first; ``[UNK]`` where that fails."""
    if len(word) > LONGEST_WORD:
        return [UNKNOWN]
    found: list[str] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary), 0)
        if not end:
            return [UNKNOWN]
        found.append(prefix + word[start:end])
        start = end
    return found


def tokens(texts: Sequence[str], vocabulary: Mapping[str, int], length: int) -> NDArray[np.int64]:
    """Tokens of texts, int64 [n, length]: ``[CLS]``, pieces, ``[SEP]``, then ``[PAD]``; what is too long is cut."""
    rows = np.full((len(texts), length), vocabulary[PADDING], np.int64)
    for row, text in zip(rows, texts, strict=True):
        body = [piece for word in words(text) for piece in pieces(word, vocabulary)][: length - 2]
        numbers = [vocabulary[piece] for piece in (BEGIN, *body, END)]
        row[: len(numbers)] = numbers
    return rows


def _is_chinese(character: str) -> bool:
    code = ord(character)
    blocks = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0xF900, 0xFAFF),
              (0x2F800, 0x2FA1F))
    return any(first <= code <= last for first, last in blocks)
