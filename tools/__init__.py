"""What is no test: breaking things on purpose, walking the documents, pictures."""
