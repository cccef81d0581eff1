"""The models that can be exported: a folder for each, and a registry that finds the one of a checkpoint."""
