"""Holds candidates against the original: parity, metrics of the user's, speed and memory."""
