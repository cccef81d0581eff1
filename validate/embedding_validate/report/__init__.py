"""Parity's report: the page, the table, and the model card."""
