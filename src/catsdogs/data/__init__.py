"""Images: from any source to what a step of a training sees.

Imports the ground only.
"""
