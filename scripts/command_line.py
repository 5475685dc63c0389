"""What --help looks like."""

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the defaults, but for those that tell nothing."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)
