"""What qtool can print, as far as its source tells."""

import re

from tests.support.rooms import FILES


def texts() -> str:
    """The source of all files, with texts that continue on the next line in one piece."""
    return "\n".join(re.sub(r'"\n\s*f?"', "", file.read_text(encoding="utf-8")) for file in FILES)
