"""Measuring models over HTTP: what is asked, under which load, what came of it, and what may be said about it.

`plan` says what is measured and in which order, `request` asks once, `loads` asks many, `run` carries a plan out,
`record` keeps each sample as it comes, `figures` and `stats` compute, `report` and `block` put into words. Nothing here
prints.
"""
