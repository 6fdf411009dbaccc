"""Trace programs: the data model, its text and file forms, and the builder that writes and checks them."""

from thp_env.machine.program import Program
from thp_env.machine.program_check import ProgramError
from thp_env.traces.builder import ProgramBuilder
from thp_env.traces.formatting import format_program
from thp_env.traces.npz import load_program, save_program
from thp_env.traces.text import parse_program

__all__ = [
    "Program",
    "ProgramBuilder",
    "ProgramError",
    "format_program",
    "load_program",
    "parse_program",
    "save_program",
]
