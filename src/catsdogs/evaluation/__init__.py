"""How good predictions are, and what they rest on.

Imports the ground only.
"""
