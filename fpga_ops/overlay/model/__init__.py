"""What a board will do: cycles, resources, exploration."""
