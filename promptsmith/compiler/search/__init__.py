"""The optimizing compiler (``-O2``, ``-O3``): drafts, racing, reflection, shrinking, and a report that can be believed."""
