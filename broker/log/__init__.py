"""Storage: one journal, many logs. Knows files and offsets; knows no queues, topics or protocols. See README.md."""
