"""blsp: speech straight into a frozen language model, by behaviour alignment (arXiv 2309.00916).

Importing this package loads no torch: take what you need from its modules.
"""

__version__ = "0.1.0"
