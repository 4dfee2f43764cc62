"""Other simulators' counting rules, one file each, under their names: for comparison with their published results.

They are not Bitmosaic's own semantics (``docs/simulator.md``) and no search uses them.
"""
