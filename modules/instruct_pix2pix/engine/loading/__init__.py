"""From a model file to networks with its weights."""
