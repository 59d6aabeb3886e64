"""Candidates side by side: what was measured of each, what that allows to be said, and a report that shows it.

Measuring is `bench`'s and `quality`'s. Here samples and answers become one comparison, which says nothing that it has
no figure for.
"""
