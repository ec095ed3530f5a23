"""The kinds of workers: one file each, named as the kind, with a ``KIND`` in it (:class:`..values.Kind`)."""
