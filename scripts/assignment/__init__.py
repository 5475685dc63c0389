"""The pass over all documents: in processes of this machine or on a Dask cluster, written to a file."""
