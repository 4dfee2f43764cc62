"""Sweeps: hardware points × networks × precisions × objectives, into one results file that resumes.

``description`` says what a sweep is, ``fields`` and ``points`` make machines of it, ``tasks`` the work and its
identity; ``evaluate`` does one task, ``local_pool`` and ``dask_pool`` many at once; ``results`` keeps what came out,
``runner`` ties them together, and ``report`` shows it.
"""
