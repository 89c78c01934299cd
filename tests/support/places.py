"""Where things are: the repository, the data that it ships, the zoo."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = REPOSITORY / "calib_data"
ZOO = Path(os.environ.get("QTOOL_ZOO", REPOSITORY.parent / "shared" / "zoo"))
"""May be missing; tests of it are skipped then."""
