"""The recipe of `models/demo`: from package registries to a checkpoint, without pretrained weights."""
