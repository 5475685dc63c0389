"""What the programs' command lines share: help, log level, argument types, and Ctrl-C while the libraries load."""

import argparse
import codecs
import re
import signal
import sys

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def exit_on_interrupt() -> None:
    """Make Ctrl-C end the program without a traceback while its libraries load; report_errors takes over later."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults except None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def add_log_level_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log-level", default="INFO", type=str.upper, choices=LOG_LEVELS, help="least severe messages")


def positive_int(text: str) -> int:
    """A whole number above 0. Raises ArgumentTypeError for anything else."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def encoding(text: str) -> str:
    """The name of an encoding. Raises ArgumentTypeError if Python has no such encoding."""
    try:
        return codecs.lookup(text).name
    except LookupError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an encoding that Python supports") from None


def percentage(text: str) -> int:
    """A whole number from 1 to 99. Raises ArgumentTypeError for anything else."""
    if not text.isdecimal() or not 1 <= int(text) <= 99:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 99")
    return int(text)


def duration(text: str) -> float:
    """Seconds, from a number with a unit, such as 90s, 10m, 24h or 30d. Raises ArgumentTypeError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 10m, 24h or 30d")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[found[2]]


def similarity(text: str) -> float:
    """A cosine between 0 and 1, both excluded. Raises ArgumentTypeError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1, such as 0.7")
    return value


def jobs(text: str) -> int:
    """A number of processes, or -1 for one per core. Raises ArgumentTypeError for anything else."""
    return -1 if text == "-1" else positive_int(text)
