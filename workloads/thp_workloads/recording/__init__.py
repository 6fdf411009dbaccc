"""Records a real run of a program as a trace program; see `record.record` and docs/guides/recording.md."""
