#!/bin/sh
# Checks the package as a user has it, in a folder that is removed at the end:
#
#   sh scripts/check_package.sh              light: build the wheel, install it alone, translate
#   sh scripts/check_package.sh all          also [all]: train model=tiny on a TSV with a quantizer of
#                                            one file beside it, export, translate, load by
#                                            transformers' Auto classes: the same text each time
#   sh scripts/check_package.sh all .venv    the same with the packages of an environment
#
# Packages come from wherever pip is configured to look. PYTHON names the interpreter.
set -eu

python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf 'check: %s\n' "$*"; }
same() {
    [ "$1" = "$2" ] || { say "$3: '$1' is not '$2'" >&2; exit 1; }
    say "$3: $1"
}

say "building the wheel"
mkdir "$work/source" "$work/empty"
(cd "$root" && cp -R vqnmt configs pretrained pyproject.toml setup.py README.md LICENSE "$work/source")
"$python" -m pip wheel -q --no-deps -w "$work" "$work/source"
wheel=$(echo "$work"/vqnmt-*.whl)

say "installing it alone"
"$python" -m venv "$work/light"
"$work/light/bin/pip" install -q "$wheel"
cd "$work/empty"
text="Turn on the light in the kitchen"
found=$(echo "$text" | "$work/light/bin/vqnmt" translate --quiet)
same "$found" "$(echo "$text" | "$work/light/bin/python" -m vqnmt translate --quiet)" "light runtime"
"$work/light/bin/python" -c 'import torch' 2>/dev/null && { say "torch is there" >&2; exit 1; }
packages=$("$work/light/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
du -sm "$packages" | awk '{print "check: " $1 " MB in all of its packages, pip among them"}'
"$work/light/bin/python" -c '
import time
start = time.perf_counter()
import vqnmt
translator = vqnmt.load_translator()
print(f"check: imported, and the shipped model loaded, in {time.perf_counter() - start:.2f} s")'
[ "${1:-}" = all ] || exit 0

if [ -n "${2:-}" ]; then
    # The wheel's files before those of the environment, which may be another version's.
    packages=$("$root/$2/bin/python" -c '
import sys
print(*(path for path in sys.path if "-packages" in path), sep="\n")')
    "$root/$2/bin/python" -m venv --without-pip "$work/all"
    inside=$("$work/all/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$work/light/bin/python" -m zipfile -e "$wheel" "$inside"
    echo "$packages" >"$inside/packages.pth"
else
    say "installing [all]"
    "$python" -m venv "$work/all"
    "$work/all/bin/pip" install -q "$wheel[all]"
fi
vqnmt() { "$work/all/bin/python" -m vqnmt "$@"; }
"$work/all/bin/python" - >my.tsv <<'END'
import itertools
words = {"red": "rot", "green": "grün", "small": "klein", "big": "groß", "house": "Haus"}
words |= {"tree": "Baum", "dog": "Hund", "cat": "Katze", "sees": "sieht", "and": "und"}
for row in itertools.islice(itertools.permutations(words, 4), 1500):
    print(" ".join(row), " ".join(words[word] for word in row), sep="\t")
END
cp "$root/docs/examples/sign_quantizer.py" .
# Without slots, because generate() does not repair a translation that makes up a span.
vqnmt train plugins=[sign_quantizer] student_model.quantizer.name=signs model=tiny \
    corpus=files corpus.train.tsv=my.tsv vocabulary.size=300 vocabulary.slots=0 \
    teacher_training.steps=60 student_training.steps=60 reward_training.steps=20 \
    evaluation.latency_sentences=0 run=run
text="big dog and cat"
vqnmt export --plugins sign_quantizer --model run/student --out exported
found=$(echo "$text" | vqnmt translate --quiet --plugins sign_quantizer --model run/student)
same "$(echo "$text" | vqnmt translate --quiet --model exported)" "$found" exported
same "$("$work/all/bin/python" -c "
import sign_quantizer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
model = AutoModelForSeq2SeqLM.from_pretrained('run/student')
tokenizer = AutoTokenizer.from_pretrained('run/student')
tokens = model.generate(**tokenizer(['$text'], return_tensors='pt'))
print(tokenizer.batch_decode(tokens)[0])")" "$found" "Auto classes"
