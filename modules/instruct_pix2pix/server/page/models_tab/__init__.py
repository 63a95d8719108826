"""The tab Models: the models that are here, those that can be had, and what goes beside them."""
