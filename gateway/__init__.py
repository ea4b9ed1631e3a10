"""The notification gateway: something finished somewhere; everyone who cares hears about it."""

__version__ = "0.1.0"
