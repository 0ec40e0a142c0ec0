"""How a model is fitted, and how it goes on after a kill.

Imports the ground, `data`, `models`, `reporting` and `tracking`.
"""
