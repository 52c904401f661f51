"""HTML of others, of which a page keeps what is known to be harmless."""

import re

import bleach
from bleach.css_sanitizer import ALLOWED_CSS_PROPERTIES, CSSSanitizer

TAGS = """
h1 h2 h3 h4 h5 h6 p br hr div span pre section img figure figcaption details summary dl dt dd q cite center font style
table thead tbody tfoot tr th td caption colgroup col del ins s u small sub sup kbd samp var mark
"""
ATTRIBUTES = """
id class style title alt lang dir role width height colspan rowspan scope start align valign border color open tabindex
cellspacing cellpadding
"""
CSS = "max-width min-width max-height min-height margin padding border border-collapse opacity display"


def clean(html: str) -> str:
    """Without what could run or load a program: scripts, handlers, frames, forms, and links to code."""
    # What stands in these is no text for a reader; a list of what is allowed would leave it there.
    bare = re.sub(r"(?is)<(script|template|noscript|iframe|object)\b.*?(?:</\1\s*>|\Z)", "", html)
    css = CSSSanitizer([*ALLOWED_CSS_PROPERTIES, *CSS.split()])
    tags, protocols = bleach.ALLOWED_TAGS | set(TAGS.split()), bleach.ALLOWED_PROTOCOLS | {"data"}
    return str(bleach.clean(bare, tags, _is_harmless, protocols, strip=True, css_sanitizer=css))


def _is_harmless(tag: str, name: str, value: str) -> bool:
    """Whether an attribute may stay; bleach looks at the protocols of addresses besides."""
    if "data:" in re.sub(r"\s", "", value.lower()) and (tag, name) == ("a", "href"):
        return False  # a page of its own
    plain = name in ATTRIBUTES.split() or name.startswith(("data-", "aria-"))
    return plain or (tag, name) in (("a", "href"), ("img", "src"))
