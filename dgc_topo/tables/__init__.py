"""Tables of the files that people write: their keys, and what is wrong with them."""
