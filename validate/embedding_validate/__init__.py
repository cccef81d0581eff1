"""Bundle against reference: says whether a bundle gives the vectors that sentence-transformers gives."""
