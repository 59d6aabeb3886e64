"""The best way of loading one model on this machine for one purpose, found by measuring and kept as its profile.

    space: what can be tried ──▶ search: rungs of paired rounds, halved ──▶ guard: what it costs in quality

What is proposed and what is concluded are pure; loading, asking and writing are the caller's (`search.Bed`).
"""
