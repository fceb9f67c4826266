"""Tests that take long: they run where LONG is set (``make test-long``), and are skipped visibly elsewhere."""

import os

import pytest

LONG = bool(os.environ.get("LONG"))
long = pytest.mark.skipif(not LONG, reason="takes long: make test-long")
