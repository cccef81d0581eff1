"""The command `compare-phone`: a page that measures a bundle in the browser that opens it."""
