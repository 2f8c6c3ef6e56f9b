"""Tasks, one file each: samplers in the graph, and data sources of numpy arrays."""
