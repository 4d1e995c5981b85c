"""Make tables from records alone: no model, no data, no accelerator."""
