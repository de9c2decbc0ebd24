"""N-grams: counting, Kneser-Ney, the match model. Imports no other package of charlm."""
