"""Ring 1: the core, from file to Concept and back. No models, no server."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
