"""`dfusion report`: one self-contained HTML page about a run, from its published outputs."""

from .page import write_report

__all__ = ["write_report"]
