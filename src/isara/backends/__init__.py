"""What speaks to torch, transformers, peft and sentence-transformers; nothing else in isara does."""
