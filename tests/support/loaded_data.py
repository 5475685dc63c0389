"""Loads, for all programs that are forks of this process, what each of them would compute or read at its first use."""

import boto3

import support.botocore_cache  # noqa: F401
from training import words

words.letter_table()
words.word_pattern()
words.written_pattern()
boto3.session.Session().client("s3", endpoint_url="http://127.0.0.1:9", region_name="us-east-1")
