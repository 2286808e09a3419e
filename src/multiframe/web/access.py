"""What somebody may do: actions and studies, as a token names them.

Pure. It must not know where a token comes from, nor how a request brings it. Whatever a token does not name it does not
give: a token without actions opens nothing, one without studies neither.
"""

import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, get_args

__all__ = [
    "ACTIONS", "EVERYTHING", "MOST_STUDIES", "READING", "Access", "Action", "BadToken", "NoKeys", "actions_of",
    "studies_of",
]  # fmt: skip

type Action = Literal["search", "read", "render", "store", "delete", "metrics", "open"]

ACTIONS: Final[frozenset[Action]] = frozenset(get_args(Action.__value__)) - {"open"}
"""What leave is given for; ``open`` is what needs none."""

MOST_STUDIES: Final = 1000
"""In one token: each search names them all to the database."""

_PREFIX = "multiframe:"
_UID = re.compile(r"[0-9A-Za-z._-]{1,64}")  # as loose as the catalog


class BadToken(Exception):
    """The token opens nothing; the message says why, and has nothing of it."""


class NoKeys(Exception):
    """The keys it would be proven by cannot be had: nothing is known of the token."""


class Access(NamedTuple):
    """What somebody may do.

    Attributes
    ----------
    who : str
        As it is written down: the name of a token, or the subject of one that somebody else has given.
    actions : frozenset of str
        Some of `ACTIONS`.
    studies : frozenset of str or None
        Study Instance UIDs; None: all.
    """

    who: str
    actions: frozenset[Action]
    studies: frozenset[str] | None

    def sees(self, study: str) -> bool:
        """Say whether it is for that study.

        Examples
        --------
        >>> Access("ward 7", frozenset({"read"}), frozenset({"1.2"})).sees("1.2.3")
        False
        """
        return self.studies is None or study in self.studies


EVERYTHING: Final = Access("-", ACTIONS, None)
"""Of whoever asks where nothing is locked: on this machine alone."""

READING: Final = Access("-", frozenset({"search", "read", "render"}), None)
"""Of whoever asks without a token where that is wanted."""


def actions_of(words: Iterable[str]) -> frozenset[Action]:
    """Give the actions among words; others are somebody else's.

    Examples
    --------
    >>> sorted(actions_of(["openid", "read", "multiframe:search", "calendar:store"]))
    ['read', 'search']
    """
    named = {word.removeprefix(_PREFIX) for word in words}
    return frozenset(action for action in ACTIONS if action in named)


def studies_of(named: Iterable[str]) -> frozenset[str] | None:
    """Give Study Instance UIDs; None where ``*`` says that all are meant.

    Raises
    ------
    ValueError
        One is no UID, or there are more than `MOST_STUDIES`.

    Examples
    --------
    >>> studies_of(["1.2.840.1"]), studies_of(["*"]), studies_of([])
    (frozenset({'1.2.840.1'}), None, frozenset())
    """
    studies = frozenset(named)
    if studies == {"*"}:
        return None
    if len(studies) > MOST_STUDIES:
        raise ValueError(f"{MOST_STUDIES} studies are the most that one token names")
    if not all(map(_UID.fullmatch, studies)):
        raise ValueError("studies are Study Instance UIDs, or * alone")
    return studies
