"""The commands of the ``sapnet`` command line: one module each.

A command is a module (or any object) with ``add_parser(subparsers)``, which describes its arguments under its own name
and returns their parser, and ``run(args) -> int``, which does the work, raises SapnetError and returns the exit status.
Other packages add theirs through the entry-point group ``sapnet.commands``.
"""
