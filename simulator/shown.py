"""Results that show themselves: as a pandas frame, and as HTML in a notebook.

What a result looks like is known to ``bitmosaic.views.shown`` alone, which stands above this package. It is made known
here when ``bitmosaic`` is imported; a result of ``simulator`` or ``mapper`` alone has no views.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd


class Views(Protocol):
    """What draws results: the module ``bitmosaic.views.shown``."""

    def result_frame(self, result: Any) -> pd.DataFrame:
        """Return the frame of a result."""

    def result_html(self, result: Any) -> str:
        """Return what a notebook shows of a result."""

    def result_text(self, result: Any) -> str:
        """Return what IPython shows of a result on a terminal."""


_find_views: Callable[[], Views] | None = None


def register_views(find: Callable[[], Views]) -> None:
    """Say where the views are; ``find`` is called when a result is first shown, so that nothing heavy is imported."""
    global _find_views
    _find_views = find


class Shown:
    """Base of results that a notebook shows without being asked, and that are a frame in one call."""

    def to_frame(self) -> pd.DataFrame:
        """Return the result as a pandas frame with units in its column names (docs/looking.md says a row of what).

        Raises ``RuntimeError`` where ``bitmosaic`` was not imported: frames are its work.
        """
        if _find_views is None:
            raise RuntimeError("frames of results are made by bitmosaic: import bitmosaic first")
        return _find_views().result_frame(self)

    def _repr_html_(self) -> str | None:
        """What a notebook shows; None, and so the plain text, where ``bitmosaic`` was not imported."""
        return None if _find_views is None else _find_views().result_html(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What IPython shows as text: the frame in place of a ``repr`` that spells out every field."""
        return {} if _find_views is None else {"text/plain": _find_views().result_text(self)}
