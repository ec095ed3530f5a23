"""The compiler: a task in, one plain, final, static prompt out."""
