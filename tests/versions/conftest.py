"""`versions/` is no package: its files run by themselves, with any Python."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "versions"))
