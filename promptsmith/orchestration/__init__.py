"""Plans: a conductor splits a problem, experts and workers do the steps in parallel, the conductor puts the results together."""
