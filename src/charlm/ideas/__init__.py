"""What each idea gains: comparisons that change one thing. May import all but the commands."""
