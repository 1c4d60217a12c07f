"""What surrounds a mechanism: building it, its layer, random inputs, step-by-step decoding, its attention map."""
