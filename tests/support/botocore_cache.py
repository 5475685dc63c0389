"""What botocore knows of S3 is loaded once per process: each client would load it anew, for 50 ms of CPU."""

from botocore.loaders import Loader

CACHE = {}
initialise = Loader.__init__


def initialise_with_shared_cache(self, *arguments, **options):
    initialise(self, *arguments, **options)
    self._cache = CACHE


Loader.__init__ = initialise_with_shared_cache
