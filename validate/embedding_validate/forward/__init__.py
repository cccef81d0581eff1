"""The exporter's forward pass in torch: sound, rounded, or layer by layer."""
