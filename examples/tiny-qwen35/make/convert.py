"""Convert the example model with llama.cpp's own converter, which does not know this tokenizer by its hash.

The converter recognises a BPE tokenizer by what it does to a test text and refuses the ones that it has never met. This one
uses GPT-2's pre-tokenizer, so the one method that asks is answered ``gpt-2``; the converter's source stays as it is.

usage: python convert.py LLAMA_CPP_DIR HF_DIR OUT.gguf
"""

import sys
from pathlib import Path


def main(llama_cpp: Path, hf: Path, out: Path) -> None:
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import convert_hf_to_gguf
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    sys.argv = ["convert_hf_to_gguf.py", str(hf), "--outtype", "bf16", "--no-mtp", "--outfile", str(out)]
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*(Path(arg).resolve() for arg in sys.argv[1:]))
