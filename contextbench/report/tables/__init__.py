"""Records as tables: for a terminal, Markdown, CSV and LaTeX."""
