"""The command `embed-text`: rows in, vectors out, in flat memory."""
