"""The command `embedding-doctor`: describes this machine and a bundle on it, and gives advice."""
