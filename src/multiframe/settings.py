"""One frozen ``Settings``: every knob, with its unit, and nothing that reads files or the environment.

It is handed in, never looked up: whoever needs a knob is given the settings or the number.
"""

from dataclasses import dataclass

__all__ = ["KIB", "MIB", "Settings"]

KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server behaves.

    Attributes
    ----------
    memory : int
        Bytes that one process may hold on behalf of all its requests, caches included.
    memory_wait : float
        Seconds a request waits for memory before it is refused.
    piece : int
        Bytes read and sent at a time; a frame larger than that leaves in pieces.
    cache_share : float
        The part of `memory` that headers and indexes kept for later may take, 0 to 1.
    first_read : int
        Bytes of the first read of a header: most headers fit.
    max_header : int
        Bytes a header may have before it is refused as hostile.
    allow_origins : tuple of str
        Origins beyond localhost that may read across origins; ``*`` is everybody.
    public_url : str or None
        The base clients see, such as ``https://images.example.org``; None: what their Host header says.
    hosts : tuple of str
        Host names answered besides localhost and `public_url`'s; anything else is refused (DNS rebinding).
    page_limit : int
        Most results one search answers with.

    Examples
    --------
    >>> Settings().memory
    67108864
    """

    memory: int = 64 * MIB
    memory_wait: float = 10.0
    piece: int = 256 * KIB
    cache_share: float = 0.5
    first_read: int = 64 * KIB
    max_header: int = 64 * MIB
    allow_origins: tuple[str, ...] = ()
    public_url: str | None = None
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    page_limit: int = 1000
