from sar.data import datasets  # noqa: F401  registers the data sets
