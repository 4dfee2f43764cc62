"""Writes a report as one page of HTML that needs nothing else: data, style, code and plotly.js are all inside.

The parts stand in ``assets/``. Its policy lets the page load nothing from anywhere, so it opens without a network.
"""

from __future__ import annotations

import html
import importlib
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from bitmosaic.explorations.comparison import Comparison, load_comparison
from bitmosaic.explorations.exploration import COMPARISON_FILE, SETTINGS_FILE, Exploration, load_exploration
from bitmosaic.explorations.folder import write_file
from bitmosaic.report_page.model import KINDS, Kind, Report
from bitmosaic.report_page.read_exploration import read_comparison, read_exploration
from bitmosaic.report_page.read_sweep import read_sweep
from bitmosaic.sweeps.results import RESULTS_FILE
from simulator.errors import ConfigurationError, MissingPackageError, Problem, closest

REPORT_FILE = "report.html"
_SCRIPTS = ("data.js", "state.js", "text.js", "charts.js", "point.js", "table.js", "main.js")
_HOLDS: dict[Kind, str] = {"comparison": COMPARISON_FILE, "exploration": SETTINGS_FILE, "sweep": RESULTS_FILE}
Results = Exploration | Comparison | str | Path


def write_report(
    results: Results, path: str | Path | None = None, *, title: str | None = None, kind: Kind | None = None
) -> Path:
    """Write what was found as one page of HTML, and return its path; a file that is there is replaced as a whole.

    Args:
        results: an exploration, a comparison, or the folder of one, or of a sweep (or a sweep's ``results.jsonl``).
        path: by default ``report.html`` in the results folder.
        title: of the page, by default after the results.
        kind: of a folder that holds several kinds of results; by default the comparison, else the exploration.

    Raises ``ConfigurationError`` where there are no results, or none that can be shown, and ``MissingPackageError``
    where plotly is not installed.
    """
    script = plotly_script()
    report = report_of(results, kind)
    if not report.points:
        raise ConfigurationError(Problem("holds no points yet: there is nothing to show", where=report.source))
    if title is not None:
        report = report.model_copy(update={"title": title})
    target = Path(report.source) / REPORT_FILE if path is None else Path(path)
    return write_file(target, page_html(report, script).encode())


def report_of(results: Results, kind: Kind | None = None) -> Report:
    """What a page shows of results. Arguments and errors as of ``write_report``."""
    if isinstance(results, Exploration):
        return read_exploration(results)
    if isinstance(results, Comparison):
        return read_comparison(results)
    folder = Path(results)
    if folder.name == RESULTS_FILE and folder.is_file():
        folder = folder.parent
    if kind is not None and kind not in KINDS:
        raise ConfigurationError(Problem("is no kind of results", path="kind", value=repr(kind), allowed=KINDS,
                                         did_you_mean=closest(kind, KINDS)))
    held: list[Kind] = [each for each, file in _HOLDS.items() if (folder / file).is_file()]
    if not held:
        words = ", ".join(f"{file} of {_with_article(each)}" for each, file in _HOLDS.items())
        raise ConfigurationError(Problem(f"is no results folder: it has none of {words}", where=str(folder)))
    if kind is not None and kind not in held:
        rule = f"holds no {kind}: it has no {_HOLDS[kind]}"
        raise ConfigurationError(Problem(rule, where=str(folder), path="kind", allowed=tuple(held)))
    if (kind or held[0]) == "sweep":
        return read_sweep(folder)
    if (kind or held[0]) == "comparison":
        report = read_comparison(load_comparison(folder))
    else:
        report = read_exploration(load_exploration(folder))
    others = [each for each in held if each != report.kind and each != "sweep"]
    if others:
        note = f"The folder holds {_with_article(others[0])} too: `bitmosaic report --kind {others[0]}` shows it."
        report = report.model_copy(update={"notes": (*report.notes, note)})
    return report


def _with_article(kind: Kind) -> str:
    return f"an {kind}" if kind == "exploration" else f"a {kind}"


def plotly_script() -> str:
    """The code of plotly.js, from the package plotly. Raises ``MissingPackageError`` where it is not installed."""
    try:
        offline: Any = importlib.import_module("plotly.offline")
    except ImportError as error:
        raise MissingPackageError(
            Problem("is needed to write reports: pip install 'bitmosaic[interactive]'", path="package", value="plotly")
        ) from error
    return str(offline.get_plotlyjs())


def page_html(report: Report, plotly: str) -> str:
    """The page: the template with everything put in. ``plotly``: the code that draws, as it stands in a script."""
    assets = files("bitmosaic.report_page") / "assets"
    own = "\n".join((assets / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    slots = {
        "title": html.escape(report.title),
        "style": (assets / "page.css").read_text(encoding="utf-8"),
        "data": script_json(report.model_dump(mode="json")),
        # Neither has such an end today; one would cut the page in two.
        "plotly": plotly.replace("</script", "<\\/script"),
        "script": own.replace("</script", "<\\/script"),
    }
    template = (assets / "page.html").read_text(encoding="utf-8")
    # All slots at once: what is put in is never looked through for slots.
    return re.sub(r"\[\[(\w+)\]\]", lambda found: slots[found[1]], template)


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no name in it can end the element, or begin a comment.

    >>> script_json({"name": "</script><!--"})
    '{"name":"\\\\u003c/script\\\\u003e\\\\u003c!--"}'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
