"""What serving follows: the rules of its records, its log, the rollback of a part."""
