"""Clients of multimodal models: servers with OpenAI's protocol, batch interfaces, models in this process."""
