"""One file a command; each offers ``command``. A package of its own, so that ``list`` and ``compile`` shadow no builtin."""
