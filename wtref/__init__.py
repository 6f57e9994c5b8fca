"""wtref: the reference implementation of *Deep Learning without Weight Transport*.

Akrout, Wilson, Humphreys, Lillicrap, Tweed, NeurIPS 2019 (arXiv 1904.05391).  Read ``rules.py``
beside the paper; ``layers.py`` shows how activities travel forward and errors travel back.
"""

__version__ = "0.1.0"
