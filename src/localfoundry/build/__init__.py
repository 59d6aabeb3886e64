"""Making versions of models out of others. Needs numpy, which nothing that starts with the product imports."""
