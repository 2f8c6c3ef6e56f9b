"""What is learnt: task generators (numpy worlds, in-graph samplers) and tf.data pipelines, one file per task."""
