"""How the bytes of a call travel: ``direct`` over aiohttp, ``lean`` for servers, or by a provider's official client.

Nothing is imported here.
"""
