"""Keep the texts of requests out of the log.

Messages of exceptions may quote what a client sent, such as pydantic's `input_value='…'`. The client gets them in its
response; the log gets the type of the exception and where it was raised.
"""

import logging
import traceback


class WithoutMessages(logging.Filter):
    """Removes the messages of exceptions from log records, at every level."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(name_of(value) if isinstance(value, BaseException) else value for value in record.args)
        if isinstance(record.msg, BaseException):
            record.msg = name_of(record.msg)
        if record.exc_info and record.exc_info[1]:
            error = record.exc_info[1]
            frames = "".join(traceback.format_tb(error.__traceback__))
            record.exc_text = f"Traceback (most recent call last):\n{frames}{name_of(error)}"
            record.exc_info = None
        return True


def name_of(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def hide_request_texts() -> None:
    """Filter what all handlers of all loggers write; call it when logging has been configured."""
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    handlers = {id(handler): handler for logger in loggers for handler in logger.handlers}
    for handler in [*handlers.values(), logging.lastResort]:
        if handler:
            handler.addFilter(WithoutMessages())
