"""MLflow: runs and models, written from what DVC keeps.

Imports the ground, `data` and `models`.
"""
