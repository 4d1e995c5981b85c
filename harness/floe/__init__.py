"""FLoE's own mathematics: the adapter, layer importance, layer selection and rank search."""
