"""One file a paper: its networks, its objective and its training step, in the paper's words."""
