"""What methods are trained on (`mixes`), scored by (`evals`), and the rows embedded for a machine with no hub."""
