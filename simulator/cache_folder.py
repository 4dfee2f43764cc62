"""Where the user's cached files lie: compiled kernels, solved mappings."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Folder for one kind of cached file.

    ``$BITMOSAIC_CACHE_DIR/kind``, else ``bitmosaic/kind`` under ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    own = os.environ.get("BITMOSAIC_CACHE_DIR")
    root = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "bitmosaic")
    return root / kind
