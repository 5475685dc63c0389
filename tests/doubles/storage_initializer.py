"""KServe's storage initializer, as its image starts it: python/storage-initializer/scripts of kserve/kserve v0.20.0.

The package that downloads is KServe's own.
"""

import sys

from kserve_storage import Storage

Storage.download(*sys.argv[1:])
