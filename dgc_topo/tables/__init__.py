"""Tables of TOML files that people write: their keys, and errors about them."""
