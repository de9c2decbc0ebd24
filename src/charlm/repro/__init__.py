"""Several stages of the graph at a time. May import check and config."""
