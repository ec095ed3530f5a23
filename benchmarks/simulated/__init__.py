"""A measuring stick for prompt optimizers that needs no model: simulated production models, a simulated meta-model.

A *family* is a hidden task: latent rules, label definitions and edge cases over inputs written from templates. Its
production model answers right with a probability that depends on which of them the prompt states, shows by example
or gets wrong, on the order of the examples, on the prompt's length and on noise; so the true score of any prompt is
known exactly. The meta-model writes prompts from the examples and failures that it finds in a request. It never sees
the hidden task as such: what a request does not show, it can't state.

**Held out.** The families in ``held_out.py`` were committed before the optimizing compiler existed and are never used
while it is built: no test of the engine, no tuning, no look at their tables before a release. The families in
``dev.py`` are for that. The table that is reported is the held-out one. Whoever changes a held-out family after the
engine was measured on it makes that table worthless: add a new family instead.

Every contender gets the same meta-model, the same feedback text and the same call counter (:class:`~.meter.Meter`).
Nothing here is a model's result, and no figure from here says anything about a real model. It is no part of the
installed package. All files but ``ours.py`` need the standard library alone, so they run in the environment of a peer.
"""
