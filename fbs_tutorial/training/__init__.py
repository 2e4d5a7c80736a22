"""Training runs: settings, recipes, the loop, and the folder that a run leaves on disk."""
