"""The mathematics of FLoE: the adapter, layer importance, layer selection and rank search."""
