"""Metalearned Neural Memory (Munkhdalai et al. 2019)."""
