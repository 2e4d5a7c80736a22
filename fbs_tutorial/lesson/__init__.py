"""What notebooks show: figures, checks of exercises, widgets."""
