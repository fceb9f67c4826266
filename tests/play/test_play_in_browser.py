"""The page in a real browser: choose, ask, force a route, drop pictures, two tabs. Skipped where there is none."""

import pytest

pytest.importorskip("selenium.webdriver", reason="no selenium; pip install -e '.[test]'")
