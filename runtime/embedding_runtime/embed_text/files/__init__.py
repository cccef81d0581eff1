"""Rows and vectors in files of many formats, read and written."""
