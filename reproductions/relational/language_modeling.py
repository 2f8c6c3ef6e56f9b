"""Language modelling, word by word (Santoro et al. 2018, §5.4; appendix A.4; Figure 12, Table 3).

A4 below is the paper's appendix A.4. Texts are read in contiguous parts; states pass from window to window.
"""

import dataclasses
import functools
import itertools
from typing import ClassVar, Literal

import numpy as np
import tensorflow as tf

from tfmem import plotting
from tfmem.cores.config import AnyCoreConfig, LSTMConfig, RelationalMemoryConfig
from tfmem.losses.chunked_softmax import chunked_softmax_cross_entropy
from tfmem.losses.masking import selected
from tfmem.models.language import LanguageModel
from tfmem.tasks.language_modeling import (
    EvaluationWindows,
    frequency_buckets,
    load_corpus,
    training_stream,
    validation_windows,
)
from tfmem.training import Evaluation
from tfmem.training.sequence import SequenceConfig, SequenceExperiment
from tfmem.validation import check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SequenceConfig):
    corpus: Literal["wikitext-2", "wikitext-103", "pg19", "gigaword"] = "wikitext-103"
    """The text. Paper: WikiText-103, Project Gutenberg, GigaWord v5 (§5.4); it has no WikiText-2."""
    vocabulary_size: int | None = None
    """Size of the vocabulary; None: all words of the training text, WikiText's 267,735. Paper: about 250,000 in all
    texts (A4)."""
    core: AnyCoreConfig
    """The core. Paper: RMC; its LSTM is from Rae et al. 2018."""
    embedding_size: int = 512
    """Size of the word embeddings, which the softmax shares. Paper: 512 (A4)."""
    dropout: float = 0.5
    """Dropout rate of the embeddings' units. Paper: 0.5 (A4). Not specified where; we drop only inputs."""
    warmup_updates: int = 0
    """Updates over which the learning rate rises linearly to `learning_rate`; 0: none. Paper: it names no warm-up."""
    window: int = 100
    """Steps of truncated back-propagation. Paper: 100 (A4)."""
    softmax_chunk: int = 2048
    """Places with logits in memory at the same time; it does not change results. Not specified; we use 2048, and the
    full softmax, as the paper names no other."""
    replicas: int = 1
    """Devices that share a batch (tf.distribute.MirroredStrategy, without XLA). Paper: 6 GPUs, 64 sequences each."""
    eval_streams: int = 8
    """Streams of a text in an evaluation, each from the start state. Paper: one in Figure 12. Not specified elsewhere;
    we use 8."""
    eval_words: int = 0
    """Words of the validation text that an evaluation during training reads; 0: all. Not specified; we use all."""
    unroll_lengths: tuple[int, ...] = (10, 25, 50, 100, 250, 500, 1000)
    """Steps between resets of the state at test time. Not specified; we use those of Figure 12's axis."""
    unroll_words: int = 0
    """Words of the test text for those; 0: all. Not specified; we use all."""
    result_words: int = 0
    """Scored words of the validation and the test text; 0: all. Not specified; we use all."""
    frequency_bounds: tuple[int, ...] = (10_000, 1_000)
    """Occurrences in the training text that separate the words of Table 3."""

    supports_mixed_precision: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        for name in ("embedding_size", "window", "softmax_chunk", "eval_streams"):
            check_range(name, getattr(self, name), 1)
        for name in ("warmup_updates", "eval_words", "unroll_words", "result_words"):
            check_range(name, getattr(self, name), 0)
        if self.vocabulary_size is not None:
            check_range("vocabulary_size", self.vocabulary_size, 3)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout}, must be from 0 to less than 1")
        if getattr(self.core, "meta_weight", 0) > 0:
            raise ValueError(
                f"core: meta_weight {self.core.meta_weight}, must be 0: this experiment has the task's loss alone"
            )
        if any(length < 1 for length in self.unroll_lengths):
            raise ValueError(f"unroll_lengths: {self.unroll_lengths}, must be at least 1 each")


PAPER_CONFIG = Config(
    # A4: tried 1000 to 3000 units in 1 or 2 memories, 1 to 5 heads, 1 to 4 rounds of attention, MLPs of 1 to 5 layers.
    # Not specified: gates; we use the public core's default.
    core=RelationalMemoryConfig(mem_slots=1, head_size=625, num_heads=4, num_blocks=1, attention_mlp_layers=5),
    batch_size=384,  # A4: 6 GPUs, 64 each
    learning_rate=1e-3,  # A4: Adam
    gradient_norm_clip=0.1,  # A4
    num_updates=100_000,  # Not specified; we use 100,000: about 37 passes over WikiText-103
    log_every=20,
    eval_every=1_000,
    checkpoint_seconds=1200.0,
    eval_words=100_000,
)
# Not specified; we use WikiText-2 with all its words and a small model, for minutes on two CPU cores.
DEMO_CONFIG = Config(
    corpus="wikitext-2",
    core=RelationalMemoryConfig(mem_slots=1, head_size=64, num_heads=4, attention_mlp_layers=2),
    embedding_size=64,
    dropout=0.1,
    window=20,
    batch_size=32,
    learning_rate=3e-3,
    gradient_norm_clip=1.0,
    num_updates=1_200,
    log_every=25,
    eval_every=300,
    eval_streams=32,
    eval_words=40_000,
    unroll_words=60_000,
    unroll_lengths=(5, 10, 25, 50, 100),
)
PRESETS = {
    "paper": PAPER_CONFIG,
    # Not specified; we use the RMC's number of units, in one layer.
    "paper_lstm": dataclasses.replace(PAPER_CONFIG, core=LSTMConfig(units=2500)),
    "paper_6_gpus": dataclasses.replace(PAPER_CONFIG, replicas=6, jit_compile=False),
    "paper_gutenberg": dataclasses.replace(PAPER_CONFIG, corpus="pg19", vocabulary_size=250_000),
    "paper_gigaword": dataclasses.replace(PAPER_CONFIG, corpus="gigaword", vocabulary_size=250_000),
    "demo": DEMO_CONFIG,
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, core=LSTMConfig(units=256)),
    "smoke": Config(
        corpus="wikitext-2",
        core=RelationalMemoryConfig(mem_slots=1, head_size=4, num_heads=2, attention_mlp_layers=1),
        embedding_size=6,
        window=5,
        softmax_chunk=4,
        batch_size=2,
        eval_streams=2,
        learning_rate=1e-2,
        num_updates=8,
        updates_per_call=2,
        log_every=2,
        checkpoint_every=4,
        eval_words=500,
        unroll_words=500,
        result_words=500,
        unroll_lengths=(2, 5),
        frequency_bounds=(20, 10),
    ),
}
PAPER = {
    "valid_perplexity": (30.8, "Table 2, WikiText-103, RMC; LSTM 34.1; Gutenberg 39.2 and 41.8"),
    "test_perplexity": (31.6, "Table 2, WikiText-103, RMC; LSTM 34.3; Gutenberg 42.0 and 45.5; GigaWord 38.3 and 43.7"),
    # Table 3 is of GigaWord v5.
    "test_perplexity_above_10000": (
        28.3,
        "Table 3, RMC; LSTM 39.4, with Hebbian softmax 33.2; all words 38.3, 53.5, 43.7",
    ),
    "test_perplexity_1000_to_10000": (3.1e3, "Table 3, RMC; LSTM 6.5e3, with Hebbian softmax 3.2e3"),
    "test_perplexity_below_1000": (6.9e4, "Table 3, RMC; LSTM 3.7e4, with Hebbian softmax 1.6e4"),
    "increase_at_unroll_100": (1.0, "Figure 12, WikiText-103, RMC; LSTM 5"),
}
DATASETS = ("wikitext-103", "wikitext-2 (demo, smoke)", "pg19 (paper_gutenberg)", "gigaword (paper_gigaword)")
STATUS = "demo"


class Experiment(SequenceExperiment):
    name = "relational/language_modeling"

    def __init__(self, config):
        super().__init__(config)
        vocabulary = self.corpus.vocabulary
        self.buckets = tf.constant(frequency_buckets(vocabulary.counts, config.frequency_bounds))
        self._scored_step = tf.function(self._score_step, autograph=False)
        self._scored_window = tf.function(self._score_window, autograph=False)
        self.unrolled = {}

    @functools.cached_property
    def corpus(self):
        return load_corpus(self.config.corpus, self.config.vocabulary_size)

    @functools.cached_property
    def stream(self):
        return training_stream(**self.data_source()[1])

    @functools.cached_property
    def validation(self):
        return validation_windows(**self.data_source("evaluation")[1])

    def data_source(self, split="train"):
        config = self.config
        arguments = {
            "corpus": config.corpus,
            "vocabulary_size": config.vocabulary_size,
            "batch_size": config.batch_size if split == "train" else config.eval_streams,
            "window": config.window,
        }
        if split == "train":
            return "tfmem.tasks.language_modeling:training_stream", {**arguments, "seed": config.seed}
        return "tfmem.tasks.language_modeling:validation_windows", {**arguments, "words": config.eval_words}

    def make_model(self):
        config = self.config
        core = config.core.make(None, config.policy)
        size = len(self.corpus.vocabulary)
        model = LanguageModel(core, size, config.embedding_size, config.dropout, dtype=config.policy)
        model.build()
        if any(0 in state.shape for state in tf.nest.flatten(model.get_initial_state(1))):
            core = type(config.core).__name__
            raise ValueError(f"core: {core}, must have a state of constant size: states pass from window to window")
        counts = self.corpus.vocabulary.counts + 1.0
        # Not specified; we initialize the softmax to the words' frequencies.
        model.word_bias.assign(np.log(counts / counts.sum()))
        return model

    def learning_rate(self, update):
        config, done = self.config, tf.cast(update + 1, tf.float32)
        return config.learning_rate * tf.minimum(done / max(config.warmup_updates, 1), 1.0)

    def batch(self, update):
        return self.stream.batch(update)

    def initial_carry(self):
        return self.model.get_initial_state(self.config.batch_size)

    def forward(self, batch, carry, training):
        """Run the model: features and state; where the text starts, from the model's own state."""
        fresh = self.model.get_initial_state(batch["inputs"].shape[1])
        state = tf.nest.map_structure(lambda new, old: tf.where(batch["first"], new, old), fresh, carry)
        seed = batch["dropout_seed"] if training else None
        return self.model.read(batch["inputs"], state, seed)

    def losses(self, batch, features):
        """Compute the nats of each word, [T, B]."""
        size = self.config.embedding_size
        losses = chunked_softmax_cross_entropy(
            tf.reshape(features, [-1, size]),
            tf.cast(self.model.embedding, self.model.compute_dtype),
            tf.convert_to_tensor(self.model.word_bias),
            tf.reshape(batch["targets"], [-1]),
            self.config.softmax_chunk,
        )
        return tf.reshape(losses, batch["targets"].shape)

    def scores(self, batch, outputs):
        return {"loss": tf.reduce_mean(self.losses(batch, outputs))}

    # Several devices

    def batch_axis(self, name, array):
        return None if name == "dropout_seed" else super().batch_axis(name, array)

    def replica_batch(self, batch, replica):
        """Return a replica's part of a batch, with a seed of its own."""
        seed = batch["dropout_seed"] * [1, self.config.replicas] + [0, tf.cast(replica, tf.int64)]
        return {**super().replica_batch(batch, replica), "dropout_seed": seed}

    # Evaluation

    def _evaluation_state(self):
        return self.model.get_initial_state(self.config.eval_streams)

    def _score_window(self, batch, carry):
        """Score a window: nats and number of words of each bucket, [buckets] each, and the state."""
        features, carry = self.forward(batch, carry, training=False)
        losses = self.losses(batch, features)
        buckets = tf.reshape(tf.gather(self.buckets, batch["targets"]), [-1])
        count = len(self.config.frequency_bounds) + 1
        sums = [
            tf.math.unsorted_segment_sum(tf.reshape(x, [-1]), buckets, count)
            for x in (selected(losses, batch["mask"]), batch["mask"])
        ]
        return tf.stack(sums), carry

    def nats(self, ids, window=None, transfer=True):
        """Score a text: nats and number of words of each bucket, float64 [2, buckets].

        Args:
          ids: the text.
          window: steps of a window; default: that of training.
          transfer: pass states from window to window. Default True.
        """
        config, carry, total = self.config, self._evaluation_state(), 0.0
        windows = EvaluationWindows(ids, config.eval_streams, window or config.window)
        for batch in map(windows.batch, range(len(windows))):
            batch["first"] = batch["first"] | np.bool_(not transfer)
            sums, carry = self._scored_window(tf.nest.map_structure(tf.constant, batch), carry)
            total = total + sums.numpy().astype(np.float64)
        return total

    def evaluation(self):
        """Evaluate the validation text; the carry is (nats, words) so far and the state."""
        carry = tf.zeros([2]), self._evaluation_state()
        return Evaluation(len(self.validation), carry, self._scored_step)

    def _score_step(self, number, batch, carry):
        total, state = carry
        sums, state = self._score_window(batch, state)
        total += tf.reduce_sum(sums, axis=1)
        loss = total[0] / total[1]
        return (total, state), {"valid_loss": loss, "valid_perplexity": tf.exp(loss)}

    def evaluate(self):
        return self.evaluation().scores(self.validation.batch)

    def result(self, evaluation):
        """Perplexities of `result_words` of each text, by frequency (Table 3) and unroll length (Figure 12)."""
        config, test = self.config, self._first_words(self.corpus.test, self.config.result_words)
        nats, words = self.nats(self._first_words(self.corpus.valid, config.result_words)).sum(axis=1)
        ours = {"valid_perplexity": perplexity(nats, words), "unigram_perplexity": self.unigram_perplexity()}
        nats, words = self.nats(test)
        ours["test_perplexity"] = perplexity(nats.sum(), words.sum())
        bounds = config.frequency_bounds
        names = [f"above_{bounds[0]}", *(f"{low}_to_{high}" for high, low in itertools.pairwise(bounds))]
        for name, n, count in zip([*names, f"below_{bounds[-1]}"], nats, words, strict=True):
            if count:
                ours[f"test_perplexity_{name}"] = perplexity(n, count)
        ids = self._first_words(self.corpus.test, config.unroll_words)
        best = perplexity(*self.nats(ids).sum(axis=1))
        for length in config.unroll_lengths:
            self.unrolled[length] = perplexity(*self.nats(ids, length, transfer=False).sum(axis=1)) - best
            ours[f"increase_at_unroll_{length}"] = self.unrolled[length]
        return ours

    @staticmethod
    def _first_words(ids, words):
        """Ids for that many predicted words, after an unpredicted first; 0: the whole text."""
        return ids[: words + 1] if words else ids

    def unigram_perplexity(self):
        """Perplexity of the test text under the words' counts in the training text plus one."""
        counts = self.corpus.vocabulary.counts + 1.0
        test = self._first_words(self.corpus.test, self.config.result_words)
        return float(np.exp(-np.mean(np.log(counts / counts.sum())[test[1:]])))

    def figures(self, folder):
        super().figures(folder)
        if self.unrolled:
            lengths, increases = np.array(list(self.unrolled)), np.array(list(self.unrolled.values()))
            core = type(self.config.core).__name__.removesuffix("Config")
            curves = {core: [(lengths, increases)]}
            figure = plotting.curves_figure(curves, "unroll length", "increase of perplexity", self.name)
            figure.savefig(folder / "unroll_lengths.png", dpi=120)


def perplexity(nats, words):
    return float(np.exp(nats / words))
