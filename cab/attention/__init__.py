"""A mechanism put into place: built for a slot, wrapped in its layer, given inputs, decoded step by step, drawn."""
