"""The command line: `cli` has the subcommands, one module does the work of each.

May import everything else; nothing imports it.
"""
