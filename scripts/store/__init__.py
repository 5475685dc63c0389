"""S3: the client, the versions of a model, and the credentials of the deployer and of the service."""
