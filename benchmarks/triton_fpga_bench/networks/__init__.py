"""Which networks of others can be served: made by torch, quantised, imported, compared."""
