"""From batches to weights: the loop and what stands beside it. May import data and models."""
