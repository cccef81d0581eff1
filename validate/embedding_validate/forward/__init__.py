"""The exporter's forward pass in torch: sound, rounded, layer by layer."""
