"""The course's drawn diagrams. Each function returns a figure and a sentence that says it all."""
