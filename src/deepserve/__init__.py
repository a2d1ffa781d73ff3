"""deepserve: your own DeepSeek V4 API."""

__version__ = "0.1.0"
