"""What is counted in a text: n-grams, Kneser-Ney, the match model. Imports numpy alone."""
