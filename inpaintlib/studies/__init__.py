"""One file a paper: what its study measures, draws and needs, on top of the harness and the methods."""
