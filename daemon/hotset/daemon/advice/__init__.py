"""Advice: how many sequences to run, how many slots to keep hot, who should run together (docs/advice.md).

`advisor.Advisor` is one session's; `node.Node` what the sessions of one daemon share. Nothing is imported here: the
command line reads `rules` for its help, and must start fast.
"""
