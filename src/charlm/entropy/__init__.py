"""What the text itself allows: estimators, counts of counts, compressors. Imports data, ngrams."""
