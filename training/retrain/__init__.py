"""Retraining of the served networks: jets, images, training, quantisation, evaluation and publishing."""
