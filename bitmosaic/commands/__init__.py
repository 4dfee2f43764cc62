"""One file a command of ``bitmosaic``; the group, ``explore``, ``simulate`` and ``map`` are in ``bitmosaic.cli``."""
