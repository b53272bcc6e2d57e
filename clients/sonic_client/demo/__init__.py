"""The demonstration: a server started, jets tagged, scores and plots shown."""
