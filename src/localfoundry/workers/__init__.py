"""Entry points of worker processes: the only code that imports an engine. Each stands alone."""
