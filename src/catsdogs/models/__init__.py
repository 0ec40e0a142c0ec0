"""Networks: how they are built, given weights and saved; the features of a frozen trunk.

Imports the ground and `data`.
"""
