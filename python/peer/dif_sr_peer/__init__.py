"""A small PyTorch implementation of DIF-SR: the peer of this project's Rust crate."""
