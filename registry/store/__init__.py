"""Bytes in S3: keys, conditional writes, blobs. The truth that serving follows."""
