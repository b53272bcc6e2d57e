"""From a trained network to a served version: card, release, publication, roll-back."""
