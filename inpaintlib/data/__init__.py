"""Photos, masks and frozen test sets."""
