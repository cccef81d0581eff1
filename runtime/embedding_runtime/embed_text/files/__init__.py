"""Reads rows and writes vectors in files of many formats."""
