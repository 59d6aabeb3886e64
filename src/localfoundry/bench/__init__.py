"""The first measurement: requests over HTTP, statistics over their raw samples, and the words for a person.

`run` measures, `stats` computes, `report` puts into words and documents. Nothing here prints.
"""
