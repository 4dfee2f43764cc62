"""Results for people: frames with units in their names, plots of frames, text tables, traces, views in notebooks."""
