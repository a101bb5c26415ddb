"""Reports on runs: their conditions, the differences between them and how sure they are, as text, tables and a page."""
