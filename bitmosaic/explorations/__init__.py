"""Exploring one network on one machine: methods that propose precisions, points, measures, files that resume."""
