"""Pictures and videos as files: read, derained, written."""
