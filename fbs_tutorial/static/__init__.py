"""The static relatives of FBS: what they remove is the same for all images.

Kernel-level pruning (masks), network slimming (slimming) and stripe-wise pruning (stripes). What
gates never choose is removed in the same way (idle).
"""
