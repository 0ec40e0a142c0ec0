"""What people look at: charts, pictures, the report.

Imports the ground and `evaluation`.
"""
