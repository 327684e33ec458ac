"""Names of arms and sweeps, which are names of folders."""

from __future__ import annotations

import hashlib
import re

LONGEST_NAME = 80  # characters; a folder's name may have 255


def slug(text: str) -> str:
    """The text as a folder's name, of letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.").lower() or "arm"


def value_slug(value: str) -> str:
    """A value as part of a folder's name: 64--1 for [64,-1]."""
    return re.sub(r"[^\w.-]", "-", value.strip("[]{}'\"")).lower()


def shortened(name: str) -> str:
    """The name; a long name is cut, and a hash is appended to keep it unique."""
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
