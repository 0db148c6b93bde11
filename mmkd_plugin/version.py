"""The one place where the version stands; packaging reads it from here."""

__version__ = '0.2.0.dev0'
