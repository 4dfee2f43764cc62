"""Mappings and architectures of other tools: read as far as the models coincide, and written for them to read.

Everything passes through one data model, the loop nest over an ordered hierarchy of memories that the counting rules
of ZigZag and AccelForge share (``simulator.counting_rules.loop_nest``). One file reads each tool's format, another
writes it; ``to_bitmosaic`` and ``nest_to_mapping`` lead from there to our accelerator and mapping, ``from_bitmosaic``
back. What coincides, what is lost and what is refused is said in ``docs/interchange.md``.
"""
