"""Where promoted prompts live. Import from ``registry.lock`` and ``registry.protocol``: nothing is loaded here."""
