"""The mean length of a page's sentences, in words, and its longest ones."""

import sys

from . import ROOT, pages, sentences, too_long

for page in pages():
    text = page.read_text()
    lengths = [len(sentence) for sentence in sentences(text)]
    print(f"{page.relative_to(ROOT)}: {sum(lengths) / len(lengths):.1f} words a sentence, {len(too_long(text))} lines too long")
    for sentence in sorted(sentences(text), key=len, reverse=True)[: int(sys.argv[1]) if len(sys.argv) > 1 else 0]:
        print(f"  {len(sentence)}: {' '.join(sentence)}")
