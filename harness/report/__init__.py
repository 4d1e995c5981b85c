"""From records to tables. Reads records only: no model, no data, no accelerator."""
