"""The overlay's model against published designs, and the accuracy of narrower arithmetic."""
