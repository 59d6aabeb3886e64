"""Find the right open language model for this machine, get it safely, run it, and prove the choice.

Kept empty of imports: `foundry --version` must not pay for anything else.
"""

__version__ = "0.1.0"
