"""The memory systems of the four papers; one file or folder each, with its paper's equations in order."""
