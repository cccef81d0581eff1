"""`compare.json`: what a comparison's document holds, and the figures read from it."""
