"""Each network of a model, top to bottom, and the layers they are made of."""
