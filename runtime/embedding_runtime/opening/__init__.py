"""Opens a bundle: chooses the graph, and checks that its files and vectors are intact."""
