"""What each idea buys: comparisons that change one thing. May import all but the commands."""
