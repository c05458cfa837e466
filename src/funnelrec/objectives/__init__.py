"""One loss, one file. Every loss takes tensors and gives a scalar; none knows a model."""
