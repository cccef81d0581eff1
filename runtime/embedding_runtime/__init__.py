"""Bundle → vectors, on the device: numpy and one engine, never torch."""
