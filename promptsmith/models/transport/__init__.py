"""How the bytes of a call travel: ``direct`` over aiohttp, or by a provider's official client. Nothing is imported here."""
