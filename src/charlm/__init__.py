"""charlm: character-level language models, compared in bits per character."""
