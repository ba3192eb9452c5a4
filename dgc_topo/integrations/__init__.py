"""Ways into other libraries' training loops; each module loads its library, and no other does."""
