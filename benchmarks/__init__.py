"""What is fast and against what, and runs that are too long for the pipeline."""
