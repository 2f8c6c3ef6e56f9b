"""Losses and objectives of the four papers."""
