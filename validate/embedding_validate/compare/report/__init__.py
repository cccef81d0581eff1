"""A comparison shown: page, Markdown, README's table."""
