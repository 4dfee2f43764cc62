"""``bitmosaic report``: results as one page of HTML to look at, to click through, and to hand on."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Write results as one page of HTML.")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="The page to write, one that is there is replaced; by default report.html in RESULTS.")
@click.option("--title", metavar="TEXT", help="The title of the page; by default after the results.")
@click.option("--kind", type=click.Choice(["exploration", "comparison", "sweep"]),
              help="Which results, where RESULTS holds several kinds; by default a comparison before an exploration.")
def report(results: Path, out: Path | None, title: str | None, kind: str | None) -> None:
    """Write what stands in RESULTS as one page that opens in a browser, without a network.

    RESULTS is the folder of `bitmosaic explore`, `compare` or `sweep run`, finished or not. The page shows the fronts;
    a click on a point shows its hardware, its layers, and the command that makes it again. Needs the extra interactive.
    """
    from bitmosaic.report_page.page import write_report

    path = write_report(results, out, title=title, kind=kind)  # type: ignore[arg-type]
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB; open it in a browser")
