"""The paper: saliency, selection, the gated layer, its controls and its MACs.

It imports torch and the standard library alone.
"""
