"""Computes, for all programs that are forks of this process, what scripts/training/words.py computes once per process."""

from training import words

words.letter_table()
words.word_pattern()
words.written_pattern()
