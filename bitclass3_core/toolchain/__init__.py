"""Stock llama.cpp: finds its programs, builds a pinned release if there is none, and runs them."""
