"""What the README quotes, each a command that anyone can run (``benchmarks/README.md``)."""
