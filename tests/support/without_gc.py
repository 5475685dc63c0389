"""The first module that a process loads before its libraries, during which there is hardly any garbage to collect.

Looking for it would take a fifth of the time.
"""

import gc

gc.disable()
