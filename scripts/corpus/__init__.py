"""Read a corpus: files, tables, mailboxes and buckets as batches of documents."""
