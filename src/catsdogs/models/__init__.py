"""Networks: built, given pretrained weights, saved, and what a frozen trunk makes of images.

Imports the ground and `data`.
"""
