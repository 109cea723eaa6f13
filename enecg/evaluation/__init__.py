"""How an experiment is judged: folds, metrics, intervals, and the report that shows them."""
