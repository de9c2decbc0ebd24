"""The text's own entropy: estimators, counts of counts, compressors. May import data and ngrams."""
