"""How training batches leave a store: the samples, the order of the samples, and the loader that resumes."""
