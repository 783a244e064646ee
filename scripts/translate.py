"""Translate lines: one in, one out, order kept, empty lines stay empty.

python scripts/translate.py --model runs/homeassistant-en-de/student < in.txt > out.txt
"""

import argparse
import sys
from itertools import islice

from command_line import RAW, run

from vqnmt.errors import VqnmtError
from vqnmt.translator import Translator

# Lines translated together from a file or a pipe: bounds the memory.
CHUNK = 1000


def main(arguments: list[str]) -> None:
    """Translate standard input to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RAW)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--beam", type=int, default=1, help="beam over tokens or codes")
    parser.add_argument("--device", help="cpu or cuda; default: a GPU where there is one")
    options = parser.parse_args(arguments)
    translator = Translator.from_pretrained(options.model, options.device)
    number = 0
    while raw := list(islice(sys.stdin.buffer, CHUNK)):
        lines = []
        for line in raw:
            number += 1
            try:
                lines.append(line.decode("utf-8").removesuffix("\n"))
            except UnicodeDecodeError as error:
                raise VqnmtError(
                    f"standard input, line {number}: not UTF-8 (byte {error.object[error.start]:#x}"
                    f" at column {error.start + 1}): convert the file to UTF-8"
                ) from error
        first = number - len(lines) + 1
        for translation in translator.translate(lines, beam=options.beam, first_line=first):
            sys.stdout.buffer.write(translation.text.encode() + b"\n")  # UTF-8 in any locale
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    run(main)
