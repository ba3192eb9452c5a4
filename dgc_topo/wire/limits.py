"""Sizes that the format fixes, in bytes, elements and bits."""

from __future__ import annotations

HEADER_BYTES = 12  #: of every message
WORD_BYTES = 4  #: of the words that a checksum adds up
MAX_RUN = 2**31  #: longest run of elements: relative indices fit an int32, gaps fit 31 bits
MAX_WIDTH = 31  #: bits of a gap
MAX_CODE = 2**16 - 1  #: longest run of zeros in one 16-bit code; longer ones take escape codes
CODE_BYTES = 2
INDEX_BYTES = 4  #: of an index that is written as it is
ESCAPE_COUNT_BYTES = 4  #: only in messages that have escape codes
MAX_COUNT_BYTES = 4  #: of a number of entries
SCALE_BYTES = 4  #: of the scale of a section: its smallest magnitude, and a step
