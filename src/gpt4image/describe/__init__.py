"""Images to descriptions: ask a multimodal LLM about every image."""
