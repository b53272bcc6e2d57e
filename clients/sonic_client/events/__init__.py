"""Events: jets in arrays and files, and how they become a model's input."""
