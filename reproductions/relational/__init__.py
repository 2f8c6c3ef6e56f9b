"""Relational recurrent neural networks (Santoro et al. 2018)."""
