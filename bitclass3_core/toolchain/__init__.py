"""Stock llama.cpp: finding its programs wherever they are, and building a pinned release where there is none."""
