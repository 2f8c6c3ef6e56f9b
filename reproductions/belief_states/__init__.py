"""Shaping Belief States with Generative Environment Models for RL (Gregor et al., NeurIPS 2019)."""
