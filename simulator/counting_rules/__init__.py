"""Other simulators' counting rules, one file each, under their names: for comparison with their published results.

They are not Bitmosaic's own semantics (``docs/simulator.md``). One search uses them: ``mapper.nest_search``, which
finds the exact fronts of AccelForge's space. ``loop_nest`` is the data model that ZigZag's and AccelForge's share.
"""
