"""Trace logs: read, write, check and import what decodes recorded. The columns are in `hotset.protos.trace`."""

from hotset.predictor.trace.info import SequenceInfo, TraceInfo, trace_info
from hotset.predictor.trace.npz import import_npz
from hotset.predictor.trace.reader import TraceReader, open_trace, read_trace
from hotset.predictor.trace.sequence import SequenceTrace, Trace
from hotset.predictor.trace.writer import TraceWriter

__all__ = [
    "SequenceInfo",
    "SequenceTrace",
    "Trace",
    "TraceInfo",
    "TraceReader",
    "TraceWriter",
    "import_npz",
    "open_trace",
    "read_trace",
    "trace_info",
]
