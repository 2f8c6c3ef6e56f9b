"""Reinforcement learning with memory: returns, losses, agents of any core, and actors and learner in one graph."""
