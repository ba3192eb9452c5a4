"""Training: data, models, and the loop that compresses, communicates and updates."""
