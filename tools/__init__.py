"""Scripts for maintainers only."""
