"""The language model of Santoro et al. 2018 (appendix A.4): word embeddings that the softmax shares."""

import tensorflow as tf

from tfmem.backend import keras
from tfmem.models.sequence import CoreModel, SequenceOutput
from tfmem.noise import dropout
from tfmem.recurrence import swap_batch_and_time, unroll
from tfmem.signatures import model_signatures


@keras.saving.register_keras_serializable(package="tfmem")
class LanguageModel(CoreModel):
    """Embeddings E of words, a core over them, and logits of the next word by the same embeddings.

        o_t = core(dropout(E_{word_t})),    logits_t = E (W o_t + w) + b

    The start of the embeddings is not specified; we use normal numbers with standard deviation 1/sqrt(embedding_size).
    Not specified: the linear map W and the bias b; we use both.

    Args:
      core: a core of `tfmem.cores`, as in `SequenceModel`.
      vocabulary_size: number of words.
      embedding_size: size of an embedding; the paper's is 512.
      dropout: rate at which units of the embeddings are dropped where `run` gets a seed; the paper's is 0.5.

    Call arguments: words, int [B, T]; `initial_state`, by default the core's own. Returns logits [B, T,
    vocabulary_size]; with `return_state=True`, (logits, state).

    Raises:
      ValueError: a dropout rate outside [0, 1).
    """

    def __init__(self, core, vocabulary_size, embedding_size=512, dropout=0.5, **kwargs):
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: {dropout!r}, must be from 0 to less than 1")
        kwargs.pop("mlp_sizes", None)  # in the configuration of every model with a core
        super().__init__(core, embedding_size, (), **kwargs)
        self.vocabulary_size, self.embedding_size, self.dropout = vocabulary_size, embedding_size, dropout

    def build(self, input_shape=None):
        init = keras.initializers.RandomNormal(stddev=self.embedding_size**-0.5)
        shape = (self.vocabulary_size, self.embedding_size)
        self.embedding = self.add_weight(shape=shape, initializer=init, name="embedding")
        self.word_bias = self.add_weight(shape=shape[:1], initializer="zeros", name="word_bias")
        self.build_step([self.embedding_size])

    def embed(self, words, dropout_seed=None):
        """Embeddings of words [...]; with units dropped where there is a seed, int [2]."""
        embedded = tf.cast(tf.gather(self.embedding, words), self.compute_dtype)
        if dropout_seed is not None and self.dropout:
            embedded = dropout(embedded, self.dropout, dropout_seed)
        return embedded

    def read(self, words, state=None, dropout_seed=None):
        """Time-major: words [T, B] to (features W o_t + w, float32 [T, B, embedding_size]; final state)."""
        if state is None:
            state = self.get_initial_state(words.shape[1] or tf.shape(words)[1])
        outputs, state = unroll(self.cell, self.embed(words, dropout_seed), state)
        return self.logits(outputs), state

    def word_logits(self, features):
        """Logits of all words, float32 [..., vocabulary_size]; the products are in the compute dtype."""
        features = tf.cast(features, self.compute_dtype)
        products = tf.tensordot(features, tf.cast(self.embedding, self.compute_dtype), [[-1], [1]])
        return tf.cast(products, tf.float32) + self.word_bias

    def run(self, words, state=None, dropout_seed=None):
        """Time-major: words [T, B] to a `SequenceOutput` with logits [T, B, vocabulary_size]."""
        features, state = self.read(words, state, dropout_seed)
        return SequenceOutput(self.word_logits(features), features, state)

    def call(self, words, initial_state=None, return_state=False):
        logits, _, state = self.run(swap_batch_and_time(tf.convert_to_tensor(words)), initial_state)
        return (swap_batch_and_time(logits), state) if return_state else swap_batch_and_time(logits)

    def export_functions(self):
        """Signatures of `tfmem.export.saved_model`: `step`, `sequence`, `sequence_from_state`, `initial_state`."""

        def step(state, words):
            features, state = self.read(words[tf.newaxis], state)
            return {"logits": self.word_logits(features[0]), "state": state}

        def sequence_from_state(state, words):
            logits, state = self(words, initial_state=state, return_state=True)
            return {"logits": logits, "state": state}

        words, sequences = ({"words": tf.TensorSpec([None] * rank, tf.int32)} for rank in (1, 2))
        return model_signatures(self, step, sequence_from_state, words, sequences)

    def build_from_config(self, config):
        self.build()

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "embedding_size": self.embedding_size,
            "dropout": self.dropout,
        }
