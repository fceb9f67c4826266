"""One module for each format of feature files: how it is recognised, read and written; ``docs/extending.md`` adds one.

Each ends with its ``FORMAT`` (``feature_files.Format``), by which ``feature_files.formats`` finds it.
"""
