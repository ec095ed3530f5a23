"""Evals: the sealed suite of a task, scorers, the runner, statistics, reports and the gate."""
