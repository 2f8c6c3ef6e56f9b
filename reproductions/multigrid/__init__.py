"""Multigrid Neural Memory (Huynh, Maire & Walter, ICML 2020)."""
