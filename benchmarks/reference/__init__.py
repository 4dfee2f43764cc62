"""Bitmosaic beside other people's numbers: ``python -m benchmarks.reference --data DIR``.

One short file a set says how its machine and its work are described to the simulator; ``comparison`` compares the
answers row by row, ``registry`` lists every file and what becomes of it.
"""
