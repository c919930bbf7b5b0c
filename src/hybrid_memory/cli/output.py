"""How the command speaks: results on standard output, complaints on standard error."""

from rich.console import Console
from rich.text import Text

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def complain(text: str) -> None:
    """Something is wrong."""
    errors.print(Text.assemble(("error: ", "bold red"), text))


def warn(text: str) -> None:
    """Something should be looked at."""
    errors.print(Text.assemble(("warning: ", "bold yellow"), text))


def done(text: str) -> None:
    """Something is as it should be."""
    console.print(Text.assemble(("ok  ", "bold green"), text))


def heading(text: str) -> None:
    """A part begins."""
    console.print(Text.assemble("\n", (text, "bold")))


def note(text: str) -> None:
    """Something worth knowing."""
    console.print(Text(text))


def size(count: int) -> str:
    """A number of bytes for people."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:  # noqa: PLR2004 - the step from one unit to the next
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
