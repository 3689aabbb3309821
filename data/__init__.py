"""From shards to batches: reading, choosing, ordering, encoding and packing samples."""
