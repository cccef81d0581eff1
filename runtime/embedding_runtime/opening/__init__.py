"""Opening a bundle: which graph is taken, and whether its files and vectors are sound."""
