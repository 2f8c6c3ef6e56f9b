"""Common sizes of the algorithmic experiments of Munkhdalai et al. 2019. Table 2 and App. A are the paper's.

Inputs are embedded (size d_i), the core's output has size d_o, and a linear map of it gives the logits (§3.1, "external
modules").
"""

from tfmem.cores.config import LookupMemoryConfig, LSTMConfig, MetalearnedMemoryConfig

# Table 2. Not specified: beta at the start; we use 0.05, as MNM-p diverges at 1/2 on long sequences.
MNM_P = MetalearnedMemoryConfig(
    units=100, num_heads=1, memory_layers=3, memory_size=100, word_size=100, write="local", initial_rate=0.05
)
PAPER_SETTINGS = dict(
    core=MNM_P,
    embedding_size=100,  # d_i; Table 2
    batch_size=32,  # App. A
    learning_rate=1e-3,  # App. A: Adam's default, as beta_1 = 0.9
    gradient_norm_clip=10.0,  # Not specified; we use 10: above the norms of stable training
    num_updates=100_000,  # Not specified; we use 100,000
    updates_per_call=20,
    log_every=100,
    eval_every=1_000,
    checkpoint_seconds=600.0,
)
# Not specified; we use the paper's batch and learning rate with a tenth of the memory's weights. Shorter keys allow
# a higher rate.
DEMO_MNM_P = MetalearnedMemoryConfig(units=64, memory_size=32, word_size=32, write="local", initial_rate=0.25)
DEMO_MNM_G = MetalearnedMemoryConfig(units=64, memory_size=32, word_size=32, write="gradient", initial_rate=0.25)
DEMO_LSTM = LSTMConfig(units=64)
DEMO_LSTM_SALU = LookupMemoryConfig(units=64, word_size=32)
DEMO_SETTINGS = dict(
    core=DEMO_MNM_P,
    embedding_size=100,
    batch_size=32,
    learning_rate=1e-3,
    gradient_norm_clip=10.0,
    updates_per_call=20,
    log_every=20,
    eval_every=500,
    eval_batches=40,
    jit_compile=True,  # without convolutions it is faster on a CPU
)
SMOKE_MNM_P = MetalearnedMemoryConfig(
    units=8, memory_layers=2, memory_size=4, word_size=4, write="local", initial_rate=0.05
)
SMOKE_SETTINGS = dict(
    embedding_size=4,
    batch_size=2,
    learning_rate=1e-3,
    num_updates=8,
    updates_per_call=2,
    log_every=2,
    checkpoint_every=4,
    eval_batches=2,
)
