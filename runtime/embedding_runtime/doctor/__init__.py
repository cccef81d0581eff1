"""The command `embedding-doctor`: what this machine and a bundle are like, and advice."""
