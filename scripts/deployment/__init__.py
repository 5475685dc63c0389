"""The InferenceService on the cluster: manifests, kubectl, rollout, waiting and diagnosis."""
