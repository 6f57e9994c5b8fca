"""The C compiler, and those of its flags that it accepts.

The compiler is $CC, or cc; its command may name another processor, as in CC="gcc -march=x86-64-v3".
"""

import functools
import shlex
import shutil
import subprocess
from itertools import product
from pathlib import Path

SOURCES = Path(__file__).parent / "c"
FLAGS = ["-O3", "-std=gnu11", "-shared", "-fPIC"]
PROCESSOR = [["-march=native"], ["-mcpu=native"], []]  # Apple's clang has long refused the first for its own processors
LIBOMP = ["/opt/homebrew/opt/libomp", "/usr/local/opt/libomp"]  # where Homebrew installs OpenMP for Apple's clang


class NoCompiler(Exception):
    """The compiled kernels are not available; the message gives the reason in a few words."""


@functools.cache
def command_and_macros(named):
    """Return the command that compiles for this machine, as a list of words, and the macros that it defines (bytes).

    named: the compiler's own command, in one string.  Of the flags for the processor, and of those for OpenMP, the first that
    it accepts are added; none where it accepts none.  The macros identify the compiler, its version and the processor.  Raises NoCompiler.
    """
    compiler = _words(named)
    if not shutil.which(compiler[0]):
        raise NoCompiler(f"the C compiler {compiler[0]!r} was not found; install gcc, or set CC to a C compiler")
    chosen = any(word.startswith(("-march=", "-mcpu=")) for word in compiler)  # and would be overruled by a later flag
    for processor, openmp in product([[]] if chosen else PROCESSOR, _openmp()):
        command = [*compiler, *FLAGS, *processor, *openmp]
        try:
            return command, run([*command, "-dM", "-E", str(SOURCES / "all.c")])
        except NoCompiler as error:
            reason = error
    raise reason


def _words(command):
    try:
        return shlex.split(command) or ["cc"]
    except ValueError as error:
        raise NoCompiler(f"the environment variable CC must be a command, found {command!r}: {error}") from None


def _openmp():
    """The flags for OpenMP: the usual one, those of Apple's clang, and none."""
    apple = [["-Xpreprocessor", "-fopenmp", f"-I{folder}/include", f"-L{folder}/lib", "-lomp"] for folder in LIBOMP]
    return [["-fopenmp"], *apple, []]


def run(command):
    """Run the compiler and return its output (bytes).  Raises NoCompiler if it fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as error:
        raise NoCompiler(f"the C compiler cannot be started: {error}") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines() or ["no message"]
        raise NoCompiler(f"the C compiler failed: {lines[0]}")
    return done.stdout
