"""From an address to batches: corpus, encoding, vocabulary, batches. May import config."""
