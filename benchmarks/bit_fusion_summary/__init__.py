"""Bit Fusion against Eyeriss, network by network (``python -m benchmarks.bit_fusion_summary``)."""
