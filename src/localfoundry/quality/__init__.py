"""Quality by suites of tasks: what is asked, how an answer is checked, and what may be concluded from the counts.

`suite` reads items, `ask` and `run` put them to models over HTTP, `checks` decides on each answer, `results` keeps it,
`score` computes, `report` puts into words. Nothing here prints.
"""
