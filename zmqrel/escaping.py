"""How text from elsewhere is shown: what a terminal would obey, or the eye not see, is escaped, and all of it is cut.

Whatever another peer, or an application, has put into a name, an id, a key, a reason or a header goes through here
before it is logged, printed or part of an error. The text itself, as a value, stays what it was.
"""

from __future__ import annotations

import unicodedata
from typing import Final

LONGEST: Final = 500
"""Characters that are shown of a text, if not told otherwise."""

_ENDS_A_LINE: Final = ("Zl", "Zp")


def escaped(text: str, most: int = LONGEST) -> str:
    """At most so many characters of a text, with control and invisible characters as \\x1b and alike."""
    # Most text is printable, and is told so by one look.
    whole = text if len(text) <= most else f"{text[:most]}..."
    return whole if whole.isprintable() and whole.isascii() else "".join(map(_escaped, whole))


def _escaped(char: str) -> str:
    category = unicodedata.category(char)
    hidden = category[0] == "C" or category in _ENDS_A_LINE
    return char.encode("unicode_escape", "surrogatepass").decode() if hidden else char
