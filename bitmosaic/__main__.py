"""Run the command line as ``python -m bitmosaic``."""

from bitmosaic.cli import main

main(prog_name="bitmosaic")
