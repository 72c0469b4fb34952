"""What every test may ask for."""

import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

# numba keeps compiled kernels beside their source; where that may not be written, in a folder of this user's
if not os.access(ROOT, os.W_OK):
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"gemvane-numba-{os.getuid()}"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of measured tables and other simulators' results, which lies beside the checkout and is not part of it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the reference data, and there is no folder {SHARED_DATA}")
    return SHARED_DATA
