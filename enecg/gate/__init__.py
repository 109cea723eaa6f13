"""Stage 2: gates that weigh the experts record by record, their search, and their ensemble."""
